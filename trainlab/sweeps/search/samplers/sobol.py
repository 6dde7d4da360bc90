"""Evenly spread draws. Named by conf/hydra/sweeper/."""

from collections.abc import Generator, Iterator

from trainlab.sweeps.search.space import Ask, Space


def sobol(space: Space, *, trials: int = 16, seed: int = 0) -> Generator[list[Ask], list, None]:
    """Sobol 1967, scrambled (Owen 1998): 2^k draws have 2^(k-m) in each of the 2^m equal parts of
    every axis. The first n are the same however many follow."""
    points = space.distinct(_draws(space, seed), trials, set())
    yield [Ask(space.at(point)) for point in points]


def _draws(space: Space, seed: int) -> Iterator[list[float]]:
    import torch

    engine = torch.quasirandom.SobolEngine(max(len(space.axes), 1), scramble=True, seed=seed)
    while True:
        yield engine.draw(1, dtype=torch.float64)[0, : len(space.axes)].tolist()
