"""Multi-layer perceptrons. Named by conf/model/. B batch, F features, K classes."""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import nn

from trainlab.errors import ConfigError
from trainlab.nn.activation import sized

USUAL = (128, 64)  # widths


def linear(
    inputs: Sequence[int],
    classes: int,
    activation: Callable[[], nn.Module],
    norm: Callable[[nn.Module, nn.Module], nn.Module],
    dropout: float = 0.0,
) -> nn.Module:
    """Softmax regression: (B, *inputs) -> logits (B, K). It has no hidden layer, so activation and
    norm are unused."""
    if dropout:
        raise ConfigError(
            f"model.dropout = {dropout}: model=linear has no hidden layer; use 0 or model=mlp"
        )
    return mlp(inputs, classes, activation, norm, widths=[])


def mlp(
    inputs: Sequence[int],
    classes: int,
    activation: Callable[[], nn.Module],
    norm: Callable[[nn.Module, nn.Module], nn.Module],
    widths: Sequence[int] = USUAL,
    dropout: float = 0.0,
    depth: int | None = None,
    shape: str = "rectangle",
    budget: int | None = None,
) -> nn.Module:
    """(B, *inputs) -> logits (B, K): linear, norm, activation, dropout for each width, then a
    linear head. With `depth` the widths are those of `shape` that fit `budget` parameters."""

    def build(widths: Sequence[int]) -> nn.Module:
        layers: list[tuple[str, nn.Module]] = [("flatten", nn.Flatten())]
        before = math.prod(inputs)
        for level, width in enumerate(widths, 1):
            out, function = sized(activation, width)
            layers.append((f"hidden{level}", norm(nn.Linear(before, out), function)))
            if dropout:
                layers.append((f"dropout{level}", nn.Dropout(dropout)))
            before = width
        layers.append(("head", nn.Linear(before, classes)))
        return nn.Sequential(OrderedDict(layers))

    if depth is None and budget is None:
        return build(widths)
    if depth is None:
        raise ConfigError(f"model.budget = {budget}: needs the number of layers; add model.depth=3")
    if tuple(widths) != USUAL:
        text = f"model.widths = {list(widths)}: model.depth = {depth} makes its own"
        raise ConfigError(f"{text}; drop one of the two")
    return build(fitting(build, depth, shape, budget))


def fitting(
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
