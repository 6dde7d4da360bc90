"""Independent draws. Named by conf/hydra/sweeper/."""

from collections.abc import Generator, Iterator
from random import Random

from trainlab.sweeps.search.space import Ask, Space


def random(space: Space, *, trials: int = 16, seed: int = 0) -> Generator[list[Ask], list, None]:
    """Bergstra and Bengio 2012: `trials` settings, none twice, uniform on every axis. The first n
    are the same however many follow."""
    points = space.distinct(draws(space, Random(seed)), trials, set())
    yield [Ask(space.at(point)) for point in points]


def draws(space: Space, stream: Random) -> Iterator[list[float]]:
    """Points of the unit cube without end."""
    while True:
        yield [stream.random() for _ in space.axes]
