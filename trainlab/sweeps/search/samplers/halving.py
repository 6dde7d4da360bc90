"""Stop the worse ones early. Named by conf/hydra/sweeper/."""

import math
from collections.abc import Generator
from random import Random

from trainlab.errors import ConfigError
from trainlab.sweeps.search.samplers import share
from trainlab.sweeps.search.samplers.random import draws
from trainlab.sweeps.search.space import Ask, Space, ranking


def halving(
    space: Space, *, trials: int = 16, seed: int = 0, eta: int = 3, least: float = 0.05
) -> Generator[list[Ask], list, None]:
    """Successive halving: Karnin et al. 2013, https://proceedings.mlr.press/v28/karnin13.html; one
    bracket of Hyperband, Li et al. 2018, https://jmlr.org/papers/v18/16-558.html.

    `trials` random settings train to the share eta^-k of their steps, the best 1/eta of them go on
    to eta^-(k-1), and so on to the end. k is the largest for which eta^k settings are there and
    the first share is at least `least`. Who failed never goes on; of equals the earlier. Raises
    ConfigError when nobody can go on: all failed, or none was evaluated by then.
    """
    share("least", least, 0.05)
    points = space.distinct(draws(space, Random(seed)), trials, set())
    left = [space.at(point) for point in points]
    for rung, until in enumerate(shares(len(left), eta, least), 1):
        scores = yield [Ask(values, until) for values in left]
        stay = ranking(scores)[: len(points) // eta**rung]
        if not stay and until < 1:
            raise ConfigError(
                f"hydra/sweeper = halving: none of {len(left)} runs has a score after {until:.3g} "
                "of its steps; if none failed, use evaluate.every=10, so that there is one by then"
            )
        left = [left[place] for place in sorted(stay)]


def shares(trials: int, eta: int, least: float) -> list[float]:
    """16, 3, 0.05 -> 1/9, 1/3, 1."""
    last = math.floor(math.log(min(trials, 1 / least), eta) + 1e-9)
    return [1 / eta ** (last - rung) for rung in range(last + 1)]
