"""Convolutional networks. Named by conf/model/. B batch, C channels, H W image, K classes."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import nn

from trainlab.errors import ConfigError
from trainlab.nn.activation import sized

Activation = Callable[[], nn.Module]
Norm = Callable[[nn.Module, nn.Module | None], nn.Module]


def cnn(
    shape: Sequence[int],
    classes: int,
    activation: Activation,
    norm: Norm,
    channels: Sequence[int] = (16, 32),
    dropout: float = 0.0,
) -> nn.Module:
    """(B, C, H, W) -> logits (B, K): 3x3 convolution, norm, activation, 2x2 max pooling for each
    entry of `channels`; then dropout and a linear head."""
    return _stages("cnn", shape, classes, activation, norm, channels, ("",), dropout)


def vgg_small(
    shape: Sequence[int],
    classes: int,
    activation: Activation,
    norm: Norm,
    channels: Sequence[int] = (32, 64, 128),
    dropout: float = 0.0,
) -> nn.Module:
    """(B, C, H, W) -> logits (B, K): as `cnn`, with two 3x3 convolutions before each pooling, the
    beginning of configuration B of Simonyan and Zisserman 2014 at half its channels."""
    return _stages("vgg_small", shape, classes, activation, norm, channels, ("a", "b"), dropout)


def lenet(
    shape: Sequence[int], classes: int, activation: Activation, norm: Norm, dropout: float = 0.0
) -> nn.Module:
    """LeNet-5, (B, C, H, W) -> logits (B, K): 5x5 convolutions of 6 and 16 channels, 2x2 average
    pooling after each, layers of 120 and 84 units. LeCun et al. 1998, section II.B.

    As it is done today: every map of the second convolution sees all of the first, the pooling has
    no weights, and the head is linear. Images below 32x32 get 2 rows and columns of 0 on each side,
    as MNIST did.
    """
    images("lenet", shape, least=12)
    channels, *size = shape
    pad = 2 if min(size) < 32 else 0
    height, width = (((n + 2 * pad - 4) // 2 - 4) // 2 for n in size)

    def block(make: Callable[[int], nn.Module], after: int) -> nn.Module:
        out, function = sized(activation, after)
        return norm(make(out), function)

    layers = {
        "conv1": block(lambda out: nn.Conv2d(channels, out, 5, padding=pad), 6),
        "pool1": nn.AvgPool2d(2),
        "conv2": block(lambda out: nn.Conv2d(6, out, 5), 16),
        "pool2": nn.AvgPool2d(2),
        "flatten": nn.Flatten(),
        "hidden1": block(lambda out: nn.Linear(16 * height * width, out), 120),
        "hidden2": block(lambda out: nn.Linear(120, out), 84),
    }
    if dropout:
        layers["dropout"] = nn.Dropout(dropout)
    return nn.Sequential(OrderedDict(layers | {"head": nn.Linear(84, classes)}))


def images(word: str, shape: Sequence[int], least: int = 1) -> None:
    """Raises ConfigError unless one sample is an image (C, H, W) of `least` pixels a side."""
    if len(shape) != 3:
        raise ConfigError(
            f"model = {word}: needs images (C, H, W), and gets {tuple(shape)} after preprocess; "
            "use model=mlp"
        )
    if min(shape[1:]) < least:
        raise ConfigError(
            f"model = {word}: needs images of {least}x{least} at least, the data has "
            f"{shape[1]}x{shape[2]}; use model=cnn"
        )


def _stages(
    word: str,
    shape: Sequence[int],
    classes: int,
    activation: Activation,
    norm: Norm,
    channels: Sequence[int],
    convs: Sequence[str],
    dropout: float,
) -> nn.Module:
    images(word, shape)
    before, height, width = shape
    if min(height, width) >> len(channels) < 1:
        most = min(height, width).bit_length() - 1
        raise ConfigError(
            f"model.channels = {list(channels)}: {height}x{width} images can be halved at most "
            f"{most} times; use model.channels={str(list(channels[:most])).replace(' ', '')}"
        )
    layers: list[tuple[str, nn.Module]] = []
    for depth, after in enumerate(channels, 1):
        for name in convs:
            out, function = sized(activation, after)
            conv = nn.Conv2d(before, out, 3, padding=1)
            layers.append((f"conv{depth}{name}", norm(conv, function)))
            before = after
        layers.append((f"pool{depth}", nn.MaxPool2d(2)))
        height, width = height // 2, width // 2
    layers.append(("flatten", nn.Flatten()))
    if dropout:
        layers.append(("dropout", nn.Dropout(dropout)))
    layers.append(("head", nn.Linear(before * height * width, classes)))
    return nn.Sequential(OrderedDict(layers))
