"""A best value at the edge of its range: the true best may lie beyond. Pure."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from trainlab.config import keys
from trainlab.sweeps.results.comparison import Result

NEAR = 0.05  # share of an interval that counts as its end
NAMES_ONLY = "seed", "data.split_seed", "optim.seed", "data.fold"  # numbers without an order
INTERVAL = r"interval\(\s*(?:start=)?([^,()]+),\s*(?:end=)?([^,()]+)\)"


def numeric(values: Sequence[Any]) -> bool:
    """Whether all are numbers; true and false are not."""
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def edges(best: Mapping[str, Any], results: Sequence[Result], axes: Mapping[str, Any]) -> list[str]:
    """A sentence for each key of `best` whose value is at an end of its range.

    axes: key -> what was typed, a list of values or the text of an interval. A bound of the key
    itself, such as 0 for a penalty, is no edge: nothing lies beyond.
    """
    lines = []
    for key, value in best.items():
        tried = sorted({str(v): v for r in results if (v := r["values"].get(key)) is not None}
                       .values(), key=str)  # fmt: skip
        if key in NAMES_ONLY or len(tried) < 2 or not numeric([value, *tried]):
            continue
        rule = keys.declared(key)
        end, text = _end(value, min(tried), max(tried), axes.get(key))
        if text and not (rule and end in (rule.ge, rule.gt, rule.le, rule.lt)):
            lines.append(f"best {key} {value:.4g} is {text}")
    return lines


def _end(value: float, least: float, most: float, axis: Any) -> tuple[float, str]:
    """The end of the range that a value is at, and the text about it; empty if it is at neither."""
    if isinstance(axis, str) and (found := re.search(INTERVAL, axis)):
        tags = axis[: found.start()]
        least, most = map(float, found.groups())
        low, high, at = (_scaled(x, tags) for x in (least, most, value))
        share = (at - low) / (high - low)
        if share < NEAR:
            return least, f"at the lower end of {found[0]}: try lower"
        return most, f"at the upper end of {found[0]}: try higher" if share > 1 - NEAR else ""
    if value == most:
        return most, "the largest tried: try higher"
    return least, "the smallest tried: try lower" if value == least else ""


def _scaled(value: float, tags: str) -> float:
    """A value on the scale of its axis, e.g. its logarithm."""
    value = 1 - value if "one_minus" in tags else value
    return math.log(value) if "log" in tags else value
