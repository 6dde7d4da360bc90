"""A wide look, then closer ones round the best. Named by conf/hydra/sweeper/."""

from collections.abc import Generator, Iterator
from itertools import cycle
from random import Random

from trainlab.sweep.samplers.random import draws
from trainlab.sweep.space import Ask, Choice, Space, ranking


def coarse_to_fine(
    space: Space, *, trials: int = 16, seed: int = 0, stages: int = 2, top: int = 3,
    shrink: float = 0.25, until: float = 1.0,
) -> Generator[list[Ask], list, None]:  # fmt: skip
    """CS231n notes 3: `trials` shared among `stages`, the first of them plain random search.

    Each later stage draws round the `top` best so far, in turn: on every interval from a window
    of `shrink` of the one before, centred on that setting and moved inside the range where it
    would leave it; of a choice the values that the best have. All stages but the last train to
    the share `until` of the steps.
    """
    stream, seen = Random(seed), set()
    points: list[list[float]] = []
    scores: list[float | None] = []
    for stage in range(stages):
        count = (trials - len(points)) // (stages - stage)
        best = [points[place] for place in ranking(scores)[:top]]
        near = _near(space, best, shrink**stage, stream) if best else draws(space, stream)
        new = space.distinct(near, count, seen)
        if new:
            share = 1.0 if stage == stages - 1 else until
            scores += yield [Ask(space.at(point), share) for point in new]
            points += new


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
