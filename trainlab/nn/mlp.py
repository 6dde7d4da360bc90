"""Multi-layer perceptrons. Named by conf/model/. B batch, F features, K classes."""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

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
    from trainlab.nn import budget as solver  # not for runs that give their widths

    return build(solver.widths(build, depth, shape, budget))
