"""Normalisation: takes a layer and the activation behind it, returns the three in order. Named by
conf/norm/.

A bias that the norm would subtract again is dropped: its gradient is rounding noise, which Adam
scales up to lr. B batch, C channels, F features.
"""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn.utils import parametrizations

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


def refuse_single(
    model: nn.Module, x: Tensor, images: int, batch_size: int, parts: int = 1
) -> None:
    """One value alone has no variance, and torch would fail in the training, at worst at the end of
    an epoch. x (B, ...) is a batch. Raises ConfigError."""
    last = images % batch_size or batch_size
    alone = last // min(parts, last) == 1
    if alone and any(isinstance(module, nn.BatchNorm1d) for module in model.modules()):
        raise ConfigError(
            f"batch_size = {batch_size}: the last batch of {images} images, or a part of it, has "
            f"one, and batch norm needs two; use batch_size={batch_size + 1} or accumulate=1"
        )
    kinds = (nn.InstanceNorm1d, nn.InstanceNorm2d, *([nn.BatchNorm2d] if alone else []))
    needy = [module for module in model.modules() if isinstance(module, kinds)]
    if not needy:
        return
    from trainlab.observe.capture import input_shapes  # most runs do without

    shapes = input_shapes(model, needy, x[:1]).values()  # (1, C, ...)
    if any(len(shape) > 2 and shape[2:].numel() == 1 for shape in shapes):
        raise ConfigError(
            "norm: a map of one value has nothing to average over; use norm=group or norm=layer, "
            "a larger batch_size, or larger images"
        )


def group(
    layer: nn.Module,
    activation: Activation = None,
    groups: int = 8,
    eps: float = 1e-5,
    place: str = "before",
) -> nn.Module:
    """Wu and He 2018, https://arxiv.org/abs/1803.08494. Over each of `groups` equal parts of the
    features (B, F), or of the channels and H, W, of each sample; gain per channel.

    Raises ConfigError for groups that do not divide the width.
    """
    width, image = width_of(layer, activation, place), isinstance(layer, nn.Conv2d)
    fits = [g for g in range(1, width + 1) if width % g == 0 and (image or g < width)]
    if groups not in fits:
        near = max([g for g in fits if g <= groups], default=1)
        why = "a group of one feature has nothing to average over"
        if width % groups:
            why = f"does not divide a width of {width}"
        raise ConfigError(f"norm.groups = {groups}: {why}; use norm.groups={near}")
    if groups == width:  # else the mean of the group leaves the differences of the biases
        layer = without_bias(layer, place)
    return block(layer, nn.GroupNorm(groups, width, eps=eps), activation, place)


def instance(
    layer: nn.Module, activation: Activation = None, eps: float = 1e-5, place: str = "before"
) -> nn.Module:
    """Ulyanov et al. 2016, https://arxiv.org/abs/1607.08022. Over H, W of each channel of each
    sample, the same in training and evaluation; gain per channel.

    Raises ConfigError for layers without H, W.
    """
    if not isinstance(layer, nn.Conv2d):
        raise ConfigError(
            "norm = instance: (B, F) has no height and width to average over; use norm=layer"
        )
    norm = nn.InstanceNorm2d(width_of(layer, activation, place), eps=eps, affine=True)
    return block(without_bias(layer, place), norm, activation, place)


class ImageRMSNorm(nn.RMSNorm):
    """x / sqrt(mean of x^2 over C, H, W + eps) of each sample (B, C, H, W); gain per channel."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.square().mean((1, 2, 3), keepdim=True)  # (B, 1, 1, 1)
        return x * (mean + self.eps).rsqrt() * self.weight[:, None, None]


def rms(
    layer: nn.Module, activation: Activation = None, eps: float = 1e-5, place: str = "before"
) -> nn.Module:
    """Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467. Layer norm without the mean and
    the shift, so the bias stays."""
    norm = ImageRMSNorm if isinstance(layer, nn.Conv2d) else nn.RMSNorm
    return block(layer, norm(width_of(layer, activation, place), eps=eps), activation, place)


def weight(layer: nn.Module, activation: Activation = None, place: str = "before") -> nn.Module:
    """Salimans and Kingma 2016, https://arxiv.org/abs/1602.07868: w = g v / |v| for each output;
    g and v are what is trained."""
    only_before("weight", place)
    return block(parametrizations.weight_norm(layer), None, activation)
