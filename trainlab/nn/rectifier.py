"""Rectifiers that torch lacks, or builds only for a given width. Named by conf/activation/.

B batch, F features or channels (dimension 1), P pieces.
"""

from torch import Tensor, nn

from trainlab.errors import ConfigError
from trainlab.observe.capture import one_call


@one_call
def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)^2, So et al. 2021 (Primer), https://arxiv.org/abs/2109.08668"""
    return x.relu().square()


@one_call
def maxout(x: Tensor, pieces: int) -> Tensor:
    """(B, F * P, ...) -> (B, F, ...), the largest of each P neighbours. Goodfellow et al. 2013,
    https://arxiv.org/abs/1302.4389"""
    return x.unflatten(1, (-1, pieces)).amax(2)


class ReLUSquared(nn.Module):
    """The module of relu_squared."""

    def forward(self, x: Tensor) -> Tensor:
        return relu_squared(x)


class Maxout(nn.Module):
    """The module of maxout; the layer before has `pieces` times its width."""

    def __init__(self, pieces: int = 2):
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        return maxout(x, self.pieces)

    def extra_repr(self) -> str:
        return f"pieces={self.pieces}"


def prelu(per: str = "layer", slope: float = 0.25, width: int | None = None) -> nn.Module:
    """He et al. 2015, https://arxiv.org/abs/1502.01852: leaky relu whose slope is learned, one
    `per` layer, or channel of `width`. Raises ConfigError where the width is not known."""
    if per == "channel" and width is None:
        raise ConfigError(
            "activation.per = channel: the width of the layer is not known here; use per=layer"
        )
    return nn.PReLU(width if per == "channel" else 1, init=slope)
