"""More normalisations, with the interface of norm.py. Named by conf/norm/.

B batch, C channels, F features, H W image.
"""

from torch import Tensor, nn
from torch.nn.utils import parametrizations

from trainlab.errors import ConfigError
from trainlab.nn.norm import Activation, block, only_before, width_of, without_bias


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
