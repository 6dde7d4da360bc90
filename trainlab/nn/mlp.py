"""Multi-layer perceptrons. Named by conf/model/. B batch, F features, K classes."""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import nn

from trainlab.errors import ConfigError
from trainlab.nn.activation import sized


def linear(
    shape: Sequence[int],
    classes: int,
    activation: Callable[[], nn.Module],
    norm: Callable[[nn.Module, nn.Module], nn.Module],
    dropout: float = 0.0,
) -> nn.Module:
    """Softmax regression: (B, *shape) -> logits (B, K). It has no hidden layer, so activation and
    norm are unused."""
    if dropout:
        raise ConfigError(
            f"model.dropout = {dropout}: model=linear has no hidden layer; use 0 or model=mlp"
        )
    return mlp(shape, classes, activation, norm, widths=[])


def mlp(
    shape: Sequence[int],
    classes: int,
    activation: Callable[[], nn.Module],
    norm: Callable[[nn.Module, nn.Module], nn.Module],
    widths: Sequence[int] = (128, 64),
    dropout: float = 0.0,
) -> nn.Module:
    """(B, *shape) -> logits (B, K): linear, norm, activation, dropout for each width, then a
    linear head."""
    layers: list[tuple[str, nn.Module]] = [("flatten", nn.Flatten())]
    before = math.prod(shape)
    for depth, width in enumerate(widths, 1):
        outputs, after = sized(activation, width)
        layers.append((f"hidden{depth}", norm(nn.Linear(before, outputs), after)))
        if dropout:
            layers.append((f"dropout{depth}", nn.Dropout(dropout)))
        before = width
    layers.append(("head", nn.Linear(before, classes)))
    return nn.Sequential(OrderedDict(layers))
