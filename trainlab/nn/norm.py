"""Normalisation: takes a layer and the activation behind it, returns the three in order. Named by
conf/norm/.

A bias that the norm would subtract again is dropped: its gradient is rounding noise, which Adam
scales up to lr. B batch, C channels, F features.
"""

from collections import OrderedDict

from torch import nn

Activation = nn.Module | None  # None where none follows, as at the end of a residual branch


def none(layer: nn.Module, activation: Activation = None) -> nn.Module:
    """The layer and its activation."""
    return _block(layer, None, activation)


def batch(
    layer: nn.Module,
    activation: Activation = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    place: str = "before",
) -> nn.Module:
    """Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167. (B, F) or (B, C, H, W), per
    feature or channel."""
    norm = nn.BatchNorm2d if isinstance(layer, nn.Conv2d) else nn.BatchNorm1d
    norm = norm(len(layer.weight), eps=eps, momentum=momentum)
    return _block(_without_bias(layer, place), norm, activation, place)


def layer(
    linear: nn.Module, activation: Activation = None, eps: float = 1e-5, place: str = "before"
) -> nn.Module:
    """Ba et al. 2016, https://arxiv.org/abs/1607.06450. Over (F) or (C, H, W) of each sample; gain
    per channel."""
    width = len(linear.weight)
    if isinstance(linear, nn.Conv2d):  # one group: mean and variance over C, H, W
        return _block(linear, nn.GroupNorm(1, width, eps=eps), activation, place)
    return _block(linear, nn.LayerNorm(width, eps=eps), activation, place)


def _block(
    layer: nn.Module, norm: Activation, activation: Activation, place: str = "before"
) -> nn.Module:
    """The parts that there are, in order; `place` is where the norm stands to the activation."""
    parts = [("layer", layer), ("norm", norm), ("activation", activation)]
    if place == "after":
        parts[1:] = reversed(parts[1:])
    return nn.Sequential(OrderedDict((name, part) for name, part in parts if part is not None))


def _without_bias(layer: nn.Module, place: str) -> nn.Module:
    if place == "before":
        layer.register_parameter("bias", None)
    return layer
