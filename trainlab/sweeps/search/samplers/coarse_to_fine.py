"""A wide look, then closer ones round the best. Named by conf/hydra/sweeper/."""

from collections.abc import Generator, Iterator
from itertools import cycle
from random import Random

from trainlab.errors import ConfigError
from trainlab.sweeps.search.samplers import share
from trainlab.sweeps.search.samplers.random import draws
from trainlab.sweeps.search.space import Ask, Choice, Space, ranking


def coarse_to_fine(
    space: Space, *, trials: int = 16, seed: int = 0, stages: int = 2, top: int = 3,
    shrink: float = 0.25, until: float = 1.0,
) -> Generator[list[Ask], list, None]:  # fmt: skip
    """CS231n notes 3: `trials` shared among `stages`, the first of them plain random search.

    Each later stage draws round the `top` best so far, in turn: on every interval from a window
    of `shrink` of the one before, centred on that setting and moved inside the range where it
    would leave it; of a choice the values that the best have. Where too few
    are left there it draws anywhere. All stages but the last train to the share `until` of the
    steps; where too few are left for the last, the best themselves go on to the end.

    Raises ConfigError for settings outside their range.
    """
    share("shrink", shrink, 0.25)
    share("until", until, 1.0)
    if stages > trials:
        raise ConfigError(f"sweep.stages = {stages}: at most sweep.trials; use sweep.trials=16")
    stream, seen = Random(seed), set()
    trials = min(trials, space.size)
    points: list[list[float]] = []
    scores: list[float | None] = []
    for stage in range(stages):
        count = (trials - len(points)) // (stages - stage)
        best = [points[place] for place in ranking(scores)[:top]]
        near = _near(space, best, shrink**stage, stream) if best else draws(space, stream)
        new = space.distinct(near, count, seen)
        missing, last = count - len(new), stage == stages - 1
        new += space.distinct(draws(space, stream), missing, seen)
        ends = best if last and missing and until < 1 else []
        if new or ends:
            asked = [Ask(space.at(point), 1.0 if last else until) for point in new + ends]
            scores += yield asked
            points += new + ends


def _near(
    space: Space, best: list[list[float]], width: float, stream: Random
) -> Iterator[list[float]]:
    """Points round each of `best` in turn, without end."""
    for centre in cycle(best):
        point = []
        for axis, (place, u) in enumerate(zip(space.axes, centre, strict=True)):
            if isinstance(place, Choice):
                point.append(stream.choice(best)[axis])
            else:
                low = min(max(u - width / 2, 0.0), 1.0 - width)
                point.append(low + width * stream.random())
        yield point
