"""Normalisation: takes the layer it follows, returns what replaces it. Named by conf/norm/.

A bias that the norm would subtract again is dropped: its gradient is rounding noise, which Adam
scales up to lr.
"""

from torch import nn


def none(layer: nn.Module) -> nn.Module:
    """The layer as it is."""
    return layer


def batch(layer: nn.Module, momentum: float = 0.1, eps: float = 1e-5) -> nn.Module:
    """Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167. (B, F) or (B, C, H, W), per
    feature or channel."""
    norm = nn.BatchNorm2d if isinstance(layer, nn.Conv2d) else nn.BatchNorm1d
    return nn.Sequential(_without_bias(layer), norm(len(layer.weight), eps=eps, momentum=momentum))


def layer(linear: nn.Module, eps: float = 1e-5) -> nn.Module:
    """Ba et al. 2016, https://arxiv.org/abs/1607.06450. Over (F) or (C, H, W) of each sample; gain
    per channel."""
    width = len(linear.weight)
    if isinstance(linear, nn.Conv2d):  # one group: mean and variance over C, H, W
        return nn.Sequential(linear, nn.GroupNorm(1, width, eps=eps))
    return nn.Sequential(linear, nn.LayerNorm(width, eps=eps))


def _without_bias(layer: nn.Module) -> nn.Module:
    layer.register_parameter("bias", None)
    return layer
