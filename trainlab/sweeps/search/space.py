"""The search space of a sweep: axes in Hydra's own grammar, and the override for each point.

    optim.lr=0.1,0.01  range(1,5)  activation=glob(re*)      one of these
    interval(0,0.5)                                          any number between
    tag(log,interval(1e-4,1))                                as many from each decade
    tag(log,one_minus,interval(0.9,0.999))                   1 - value on a log axis: momentum
    int(interval(1,5))  tag(log,int(interval(16,256)))       whole numbers, both ends among them
    optim.betas='[tag(log,one_minus,interval(0.8,0.99)),0.999]'   the same inside a list

A point has a number in [0, 1] for each axis, uniformly distributed. Values that do not vary are no
axes.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    RangeSweep,
    Sweep,
    ValueType,
)

from trainlab.errors import ConfigError

TAGS = {"log", "one_minus"}
GIVEN_UP = 1000  # repeated draws in a row after which the search stops


@dataclasses.dataclass(frozen=True)
class Ask:
    """One setting to try. values: key -> text of a Hydra override. until: the share of its
    steps to train; a later Ask with the same values and a larger share resumes the same run."""

    values: dict[str, str]
    until: float = 1.0


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some texts."""

    name: str
    texts: tuple[str, ...]

    @property
    def size(self) -> int:
        return len(self.texts)

    def text(self, u: float) -> str:
        """The text at u in [0, 1]."""
        return self.texts[min(int(u * self.size), self.size - 1)]

    def place(self, text: str) -> float:
        """The middle of the part of [0, 1] that maps to `text`."""
        return (self.texts.index(text) + 0.5) / self.size

    def ends(self) -> list[str]:
        return list(self.texts)


@dataclasses.dataclass(frozen=True)
class Interval:
    """A number from low to high, both included.

    log: uniform in its logarithm, or in that of 1 - value (one_minus).
    whole: whole numbers only.
    """

    name: str
    low: float
    high: float
    log: bool = False
    one_minus: bool = False
    whole: bool = False

    @property
    def size(self) -> float:
        return self.high - self.low + 1 if self.whole else math.inf

    def _scale(self, x: float) -> float:
        x = 1 - x if self.one_minus else x
        return math.log(x) if self.log else x

    def _line(self) -> tuple[float, float]:
        """Both ends on the scale; a whole number k covers k to k + 1."""
        return self._scale(self.low), self._scale(self.high + self.whole)

    def text(self, u: float) -> str:
        """The number at u in [0, 1]: to 4 digits, on a linear axis to 1/10,000 of its length or
        better. It reads back exactly."""
        begin, end = self._line()
        x = begin + u * (end - begin)
        if self.log:
            x = math.exp(x)
        if self.whole:
            return str(min(max(math.floor(x + 1e-9), int(self.low)), int(self.high)))
        if self.one_minus:
            x = float(1 - Decimal(f"{x:.4g}"))
        elif self.log:
            x = float(f"{x:.4g}")
        else:
            x = round(x, 4 - math.floor(math.log10(end - begin))) + 0.0  # no -0.0
        return repr(min(max(x, self.low), self.high))

    def place(self, text: str) -> float:
        """The place of a number on the axis, within [0, 1]."""
        begin, end = self._line()
        x = float(text) + (0.5 if self.whole else 0)
        return min(max((self._scale(x) - begin) / (end - begin), 0.0), 1.0)

    def ends(self) -> list[str]:
        return [self.text(0), self.text(1)]


Axis = Choice | Interval


@dataclasses.dataclass(frozen=True)
class Space:
    """Axes in the order typed. keys: key -> its override in pieces, where a number is an axis."""

    axes: tuple[Axis, ...]
    keys: dict[str, tuple[str | int, ...]]

    @classmethod
    def of(cls, overrides: Iterable[Override]) -> "Space":
        """The axes of a command line. Raises ConfigError for what cannot be searched."""
        axes: list[Axis] = []
        keys = {}
        for o in overrides:
            value = parsed(o)
            if isinstance(value, ChoiceSweep) and varies(value.list):  # see as_sweep
                value = value.list[0] if len(value.list) == 1 else dict(enumerate(value.list))
                keys[o.key_or_group] = tuple(_pieces(o, value, o.key_or_group, axes))
            elif o.is_sweep_override():
                axes.append(_axis(o, value, o.key_or_group))
                keys[o.key_or_group] = (len(axes) - 1,)
            elif varies(value):
                keys[o.key_or_group] = tuple(_pieces(o, value, o.key_or_group, axes))
        return cls(tuple(axes), keys)

    @property
    def size(self) -> float:
        """How many settings there are; inf with an interval of fractions."""
        return math.prod(axis.size for axis in self.axes)

    def values(self, texts: Sequence[str]) -> dict[str, str]:
        """The overrides for one text of each axis."""
        return {
            key: "".join(texts[piece] if isinstance(piece, int) else piece for piece in pieces)
            for key, pieces in self.keys.items()
        }

    def at(self, point: Sequence[float]) -> dict[str, str]:
        """The overrides of a point: a number in [0, 1] for each axis."""
        return self.values([axis.text(u) for axis, u in zip(self.axes, point, strict=True)])

    def extremes(self) -> dict[str, list[str]]:
        """Key -> the overrides to validate: every text of a choice, both ends of an interval. If
        those are valid, everything between is."""
        ends = [axis.ends() for axis in self.axes]
        overrides = {}
        for key, pieces in self.keys.items():
            parts = [ends[p] if isinstance(p, int) else [p] for p in pieces]
            overrides[key] = ["".join(texts) for texts in itertools.product(*parts)]
        return overrides

    def distinct(
        self, draws: Iterable[Sequence[float]], count: int, seen: set[tuple[str, ...]]
    ) -> list[Sequence[float]]:
        """The first `count` points of `draws` whose settings are not in `seen`; adds them to it.
        Fewer after GIVEN_UP repeats in a row, or when all settings are in `seen`."""
        points: list[Sequence[float]] = []
        missed = 0
        for point in draws:
            if len(points) == count or missed == GIVEN_UP or len(seen) == self.size:
                break
            texts = tuple(self.at(point).values())
            missed = missed + 1 if texts in seen else 0
            if texts not in seen:
                seen.add(texts)
                points.append(point)
        return points


def ranking(scores: Sequence[float | None]) -> list[int]:
    """Indices of the scores, best first, without None and non-finite ones; ties in given order."""
    good = [i for i, score in enumerate(scores) if score is not None and math.isfinite(score)]
    return sorted(good, key=lambda i: scores[i])


def varies(value: Any) -> bool:
    """Whether a parsed value contains a sweep anywhere; Hydra itself checks the top level only."""
    inner = value.values() if isinstance(value, dict) else value
    return isinstance(value, Sweep) or (isinstance(value, list | dict) and any(map(varies, inner)))


def parsed(o: Override) -> Any:
    """The value as Hydra parsed it. Its public `value()` takes the quotes off what stands in a
    list, and an override made of that would be another."""
    return o._value


def with_value(o: Override, value: Any, kind: ValueType = ValueType.ELEMENT) -> Override:
    """The override with another parsed value, for Hydra's own methods to read or write it."""
    return dataclasses.replace(o, _value=value, value_type=kind)


def as_sweep(o: Override) -> str:
    """The override in a form that Hydra takes for a sweep; a sweep inside a list it takes for a
    value."""
    if o.is_sweep_override() or not varies(o.value()):
        return o.input_line
    return f"{o.key_or_group}=choice({o.get_value_string()})"


def _pieces(o: Override, value: Any, name: str, axes: list[Axis]) -> list[str | int]:
    """A value as pieces of text and numbers of axes; appends the axes to `axes`."""
    if isinstance(value, Sweep):
        axes.append(_axis(o, value, name))
        return [len(axes) - 1]
    if isinstance(value, dict) and varies(value):
        text = o.input_line.replace("=", " = ", 1)
        raise ConfigError(
            f"{text}: a sweep cannot stand inside {{...}} or be one of several; list what to try"
        )
    if not isinstance(value, list):
        return [with_value(o, value).get_value_element_as_str()]
    parts: list[str | int] = ["["]
    for i, item in enumerate(value):
        parts += [","] * (i > 0) + _pieces(o, item, f"{name}[{i}]", axes)
    return [*parts, "]"]


def _axis(o: Override, sweep: Any, name: str) -> Axis:
    """One axis. Raises ConfigError."""
    text = f"{o.key_or_group} = {o.get_value_string()}"
    if isinstance(sweep, IntervalSweep):
        return _interval(text, name, sweep)
    if tags := getattr(sweep, "tags", ()):
        raise ConfigError(
            f"{text}: tag({','.join(sorted(tags))},...) is for intervals; use interval(LOW,HIGH)"
        )
    if getattr(sweep, "shuffle", False):
        raise ConfigError(f"{text}: shuffle gives another order each time; leave it out")
    if isinstance(sweep, RangeSweep) and not sweep.step:
        raise ConfigError(f"{text}: the step is 0; use range(START,STOP,STEP)")
    # a sweep inside a list Hydra calls an element
    kind = o.value_type if o.is_sweep_override() else ValueType.CHOICE_SWEEP
    listed = with_value(o, sweep, kind)
    if not (texts := tuple(listed.sweep_string_iterator())):
        raise ConfigError(f"{text}: no value to try; name at least one")
    return Choice(name, texts)


def _interval(text: str, name: str, sweep: IntervalSweep) -> Interval:
    low, high, tags = sweep.start, sweep.end, sweep.tags
    if unknown := sorted(tags - TAGS):
        raise ConfigError(f"{text}: no tag {unknown[0]}; use tag(log,interval(LOW,HIGH))")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"{text}: needs two finite ends, the lower first: interval(LOW,HIGH)")
    whole = isinstance(low, int)
    if "one_minus" in tags and (whole or high >= 1):
        raise ConfigError(
            f"{text}: one_minus needs fractions below 1: tag(log,one_minus,interval(0.9,0.999))"
        )
    if "log" in tags and "one_minus" not in tags and low <= 0:
        raise ConfigError(f"{text}: log needs both ends > 0; use tag(log,interval(1e-6,...))")
    return Interval(name, low, high, bool(tags), "one_minus" in tags, whole)
