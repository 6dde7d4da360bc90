"""The widths of an MLP that fit a number of parameters."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from trainlab.errors import ConfigError


def widths(
    build: Callable[[Sequence[int]], nn.Module], depth: int, shape: str, budget: int | None
) -> list[int]:
    """`depth` widths of one shape, so that `build(widths)` has as many parameters as fit `budget`.

    rectangle: w, ..., w; funnel: from w to w/depth in equal steps; inverted: from w/depth to w.
    The count is that of the network itself, built without memory, whatever its norm and activation.
    Raises ConfigError where even w = 1 has too many.
    """
    if budget is None:
        raise ConfigError(f"model.depth = {depth}: needs its budget; add model.budget=50000")

    def of(w: int) -> list[int]:
        steps = [max(1, round(w * (depth - i) / depth)) for i in range(depth)]
        return {"rectangle": [w] * depth, "funnel": steps, "inverted": steps[::-1]}[shape]

    def count(w: int) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in build(of(w)).parameters())

    if count(1) > budget:
        raise ConfigError(
            f"model.budget = {budget}: {depth} layers of one unit have {count(1)} parameters; "
            f"use model.budget={10 * count(1)}, or fewer layers"
        )
    low, high = 1, 2
    while count(high) <= budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= budget else (low, middle)
    return of(low)
