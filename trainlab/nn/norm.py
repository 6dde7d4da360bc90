"""Normalisation: takes a layer and the activation behind it, returns the three in order. Named by
conf/norm/; the words that a default run does not import stand in groupnorm.py.

A bias that the norm would subtract again is dropped: its gradient is rounding noise, which Adam
scales up to lr. B batch, C channels, F features.
"""

from collections import OrderedDict

from torch import nn

from trainlab.errors import ConfigError

Activation = nn.Module | None  # None where none follows, as at the end of a residual branch


def none(layer: nn.Module, activation: Activation = None, place: str = "before") -> nn.Module:
    """The layer and its activation."""
    only_before("none", place)
    return block(layer, None, activation)


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
    norm = norm(width_of(layer, activation, place), eps=eps, momentum=momentum)
    return block(without_bias(layer, place), norm, activation, place)


def layer(
    linear: nn.Module, activation: Activation = None, eps: float = 1e-5, place: str = "before"
) -> nn.Module:
    """Ba et al. 2016, https://arxiv.org/abs/1607.06450. Over (F) or (C, H, W) of each sample; gain
    per channel."""
    width = width_of(linear, activation, place)
    if isinstance(linear, nn.Conv2d):  # one group: mean and variance over C, H, W
        return block(linear, nn.GroupNorm(1, width, eps=eps), activation, place)
    return block(linear, nn.LayerNorm(width, eps=eps), activation, place)


def block(
    layer: nn.Module, norm: Activation, activation: Activation, place: str = "before"
) -> nn.Module:
    """The parts that there are, in order; `place` is where the norm stands to the activation."""
    parts = [("layer", layer), ("norm", norm), ("activation", activation)]
    if place == "after":
        parts[1:] = reversed(parts[1:])
    return nn.Sequential(OrderedDict((name, part) for name, part in parts if part is not None))


def width_of(layer: nn.Module, activation: Activation, place: str) -> int:
    """Features or channels where the norm stands: maxout leaves one of its `pieces`."""
    pieces = getattr(activation, "pieces", 1) if place == "after" else 1
    return len(layer.weight) // pieces


def without_bias(layer: nn.Module, place: str) -> nn.Module:
    """The layer, whose bias a norm directly behind it would subtract again."""
    if place == "before":
        layer.register_parameter("bias", None)
    return layer


def only_before(word: str, place: str) -> None:
    """Raises ConfigError for a place that the norm `word` does not have."""
    if place != "before":
        raise ConfigError(
            f"norm.place = {place}: norm={word} has no layer of its own that could stand there; "
            "use norm.place=before, or norm=batch"
        )


def refuse_single(model: nn.Module, images: int, batch_size: int, parts: int = 1) -> None:
    """One image alone has no variance for (B, F), and torch would fail at the end of the epoch."""
    last = images % batch_size or batch_size
    needy = any(isinstance(module, nn.BatchNorm1d) for module in model.modules())
    if last // min(parts, last) == 1 and needy:
        raise ConfigError(
            f"batch_size = {batch_size}: the last batch of {images} images, or a part of it, has "
            f"one, and batch norm needs two; use batch_size={batch_size + 1} or accumulate=1"
        )
