"""Convolutional networks. Named by conf/model/. B batch, C channels, H W image, K classes."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import nn

from trainlab.errors import ConfigError
from trainlab.nn.activation import sized


def cnn(
    shape: Sequence[int],
    classes: int,
    activation: Callable[[], nn.Module],
    norm: Callable[[nn.Module, nn.Module], nn.Module],
    channels: Sequence[int] = (16, 32),
    dropout: float = 0.0,
) -> nn.Module:
    """(B, C, H, W) -> logits (B, K): 3x3 convolution, norm, activation, 2x2 max pooling for each
    entry of `channels`; then dropout and a linear head."""
    if len(shape) != 3:
        raise ConfigError(
            f"model = cnn: needs images (C, H, W), the data has shape {tuple(shape)}; use model=mlp"
        )
    before, height, width = shape
    if min(height, width) >> len(channels) < 1:
        raise ConfigError(
            f"model.channels = {list(channels)}: {height}x{width} images can be halved at most "
            f"{min(height, width).bit_length() - 1} times; give fewer channels"
        )
    layers: list[tuple[str, nn.Module]] = []
    for depth, after in enumerate(channels, 1):
        outputs, active = sized(activation, after)
        conv = nn.Conv2d(before, outputs, 3, padding=1)
        layers.append((f"conv{depth}", norm(conv, active)))
        layers.append((f"pool{depth}", nn.MaxPool2d(2)))
        before, height, width = after, height // 2, width // 2
    layers.append(("flatten", nn.Flatten()))
    if dropout:
        layers.append(("dropout", nn.Dropout(dropout)))
    layers.append(("head", nn.Linear(before * height * width, classes)))
    return nn.Sequential(OrderedDict(layers))
