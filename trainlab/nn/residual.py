"""Residual networks. Named by conf/model/.

A block is activation(shortcut(x) + branch(x)). Letters: B batch, C channels, F features, K classes.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional

from trainlab.errors import ConfigError
from trainlab.nn.activation import sized
from trainlab.nn.cnn import Activation, Norm, images

Shortcut = Callable[[int, int, int], nn.Module]  # of channels before, after, and stride


class Residual(nn.Module):
    """y = activation(shortcut(x) + branch(x)). `branch` ends in its last norm, if there is one, and
    then in `DropPath`, if there is one."""

    def __init__(self, branch: nn.Sequential, shortcut: nn.Module, activation: nn.Module):
        super().__init__()
        self.branch, self.shortcut, self.activation = branch, shortcut, activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.shortcut(x) + self.branch(x))


class DropPath(nn.Module):
    """Stochastic depth, Huang et al. 2016: in training a sample's branch (B, ...) is 0 with
    probability p, else divided by 1 - p; in evaluation it is the expectation, the branch itself.

    The mask is a dropout of ones (B, 1, ...), so it follows torch's global generator, and whoever
    turns dropout off turns this off too.
    """

    def __init__(self, p: float):
        super().__init__()
        self.mask = nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask(x.new_ones(len(x), *[1] * (x.dim() - 1)))


class Subsampled(nn.Module):
    """He et al. 2016, option A: every `stride`-th pixel of x (B, C, H, W), channels added as 0.
    It has no parameters."""

    def __init__(self, more: int, stride: int):
        super().__init__()
        self.more, self.stride = more, stride

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(x, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))


class Pooled(nn.Module):
    """(B, C, H, W) -> (B, C): the mean over the image."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def resnet20(
    shape: Sequence[int],
    classes: int,
    activation: Activation,
    norm: Norm,
    dropout: float = 0.0,
    drop_path: float = 0.0,
) -> nn.Module:
    """The 20 layers of He et al. 2016, section 4.2, (B, C, H, W) -> logits (B, K): 3 stages of 3
    blocks of 16, 32, 64 channels, shortcuts without parameters (option A): 0.27 million."""
    images("resnet20", shape, least=4)

    def added(before: int, after: int, stride: int) -> nn.Module:
        return Subsampled(after - before, stride)

    sizes = (16, 32, 64), (3, 3, 3)
    return _resnet(shape, classes, activation, norm, *sizes, added, dropout, drop_path)


def resnet18(
    shape: Sequence[int],
    classes: int,
    activation: Activation,
    norm: Norm,
    dropout: float = 0.0,
    drop_path: float = 0.0,
) -> nn.Module:
    """The 18 layers of He et al. 2016, table 1, (B, C, H, W) -> logits (B, K): 4 stages of 2 blocks
    of 64 to 512 channels, 1x1 convolutions where a shortcut changes shape (option B): 11 million.

    For small images: the first convolution is 3x3 with stride 1, and no pooling follows it.
    """
    images("resnet18", shape, least=8)

    def projected(before: int, after: int, stride: int) -> nn.Module:
        return norm(nn.Conv2d(before, after, 1, stride), None)

    sizes = (64, 128, 256, 512), (2, 2, 2, 2)
    return _resnet(shape, classes, activation, norm, *sizes, projected, dropout, drop_path)


def _resnet(
    shape: Sequence[int],
    classes: int,
    activation: Activation,
    norm: Norm,
    channels: Sequence[int],
    blocks: Sequence[int],
    changed: Shortcut,
    dropout: float,
    drop_path: float,
) -> nn.Module:
    before, rates = channels[0], iter(_rates(drop_path, sum(blocks)))
    out, function = sized(activation, before)
    layers = {"stem": norm(nn.Conv2d(shape[0], out, 3, padding=1), function)}
    for stage, (width, count) in enumerate(zip(channels, blocks, strict=True), 1):
        for block in range(1, count + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            out, inner = sized(activation, width)
            end, outer = sized(activation, width)
            branch = [
                norm(nn.Conv2d(before, out, 3, stride, padding=1), inner),
                norm(nn.Conv2d(width, end, 3, padding=1), None),
            ]
            same = end == before and stride == 1
            shortcut = nn.Identity() if same else changed(before, end, stride)
            layers[f"block{stage}_{block}"] = Residual(
                _branch(branch, next(rates)), shortcut, outer
            )
            before = width
    return _headed(layers | {"pool": Pooled()}, before, classes, dropout)


def residual_mlp(
    shape: Sequence[int],
    classes: int,
    activation: Activation,
    norm: Norm,
    widths: Sequence[int] = (128, 128, 128),
    dropout: float = 0.0,
    drop_path: float = 0.0,
) -> nn.Module:
    """(B, *shape) -> logits (B, K): a linear stem, one block for each width, activation, head.

    A block is x + branch(x), the branch twice activation, linear, norm: as in He et al. 2016
    (identity mappings) nothing stands on the way of x. Their norm stands before the activation,
    ours, which belongs to a layer, behind it. Where the width changes, the shortcut is linear.
    """
    if not widths:
        raise ConfigError("model.widths = []: a residual network has a block; use model=linear")
    last, rates = widths[0], _rates(drop_path, len(widths))
    before, _ = sized(activation, last)
    layers = {"flatten": nn.Flatten(), "stem": nn.Linear(math.prod(shape), before)}
    for level, (width, rate) in enumerate(zip(widths, rates, strict=True), 1):
        (_, first), (out, second) = sized(activation, last), sized(activation, width)
        branch = [first, norm(nn.Linear(last, out), second), norm(nn.Linear(width, out), None)]
        names = "activation", "1", "2", "3"  # so that one of one's own is known as the activation
        parts = zip(names, _branch(branch, rate), strict=False)
        shortcut = nn.Identity() if out == before else nn.Linear(before, out)
        named = nn.Sequential(OrderedDict(parts))
        layers[f"block{level}"] = Residual(named, shortcut, nn.Identity())
        before, last = out, width
    layers["activation"] = sized(activation, last)[1]
    return _headed(layers, last, classes, dropout)


def _rates(drop_path: float, blocks: int) -> list[float]:
    """Growing in equal steps to `drop_path` at the last block: Huang et al. 2016, equation 4."""
    return [drop_path * level / blocks for level in range(1, blocks + 1)]


def _branch(parts: list[nn.Module], rate: float) -> nn.Sequential:
    return nn.Sequential(*parts, *[DropPath(rate)] * (rate > 0))


def _headed(
    layers: dict[str, nn.Module], width: int, classes: int, dropout: float
) -> nn.Sequential:
    if dropout:
        layers["dropout"] = nn.Dropout(dropout)
    return nn.Sequential(OrderedDict(layers | {"head": nn.Linear(width, classes)}))
