"""Every combination. Named by conf/hydra/sweeper/."""

import itertools
from collections.abc import Generator

from trainlab.errors import ConfigError
from trainlab.sweeps.search.space import Ask, Axis, Choice, Space


def grid(space: Space, *, points: int | None = None) -> Generator[list[Ask], list, None]:
    """The product in Hydra's order: the last key typed changes fastest.

    points: how many values an interval is replaced by, both ends among them, in equal steps of its
    logarithm where it is tagged log. Raises ConfigError for an interval without it.
    """
    lists = [_values(axis, points) for axis in space.axes]
    yield [Ask(space.values(texts)) for texts in itertools.product(*lists)]


def _values(axis: Axis, points: int | None) -> list[str]:
    if isinstance(axis, Choice):
        return list(axis.texts)
    if points is None:
        raise ConfigError(
            f"{axis.name} = interval({axis.low:g},{axis.high:g}): has no end; "
            "use hydra/sweeper=random sweep.trials=16, or sweep.points=5 for a grid"
        )
    places = [i / (points - 1) for i in range(points)] if points > 1 else [0.5]
    return list(dict.fromkeys(map(axis.text, places)))  # few whole numbers may come twice
