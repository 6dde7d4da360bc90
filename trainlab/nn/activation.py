"""Activations: the width one needs, its gain. The words of conf/activation/
are the classes of torch, or stand below. Named by conf/activation/. B batch, F features, P pieces.

An activation with an attribute `pieces` makes one unit of P, the largest (maxout).
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from trainlab.errors import ConfigError


@runtime_checkable
class OfWidth(Protocol):
    """A factory of activations that depend on the width of their layer."""

    def of_width(self, width: int) -> nn.Module: ...


def sized(activation: Callable[..., nn.Module], width: int) -> tuple[int, nn.Module]:
    """What the layer before must put out, and the activation that makes `width` units of it.

    A factory that is `OfWidth`, as PReLU for one slope per channel, is told the width.
    """
    module = activation.of_width(width) if isinstance(activation, OfWidth) else activation()
    return width * getattr(module, "pieces", 1), module


@torch.no_grad()
def gain(activation: nn.Module) -> float:
    """1 / sqrt(E[f(z)^2]), z ~ N(0, 1) and independent between the pieces: with weights of variance
    gain^2 / fan_in behind f, the second moment stays 1 (He et al. 2015, equation 7).

    By quadrature in float64, in evaluation mode (rrelu takes its mean slope); nothing is drawn.
    """
    f, width = in_double(activation)
    z, density = _gauss()
    pieces = getattr(f, "pieces", 1)  # the largest of P has the density P phi Phi^(P-1)
    density = density * pieces * torch.special.ndtr(z) ** (pieces - 1)
    square = f(z[:, None].repeat(1, width)).square().mean(1)
    return 1 / math.sqrt(float(square @ density))


def in_double(activation: nn.Module) -> tuple[nn.Module, int]:
    """A copy for evaluation in float64, and how many features it takes at least."""
    f = copy.deepcopy(activation).to("cpu", torch.float64).eval()
    return f, max([getattr(f, "pieces", 1), *(p.numel() for p in f.parameters())])


def _gauss() -> tuple[Tensor, Tensor]:
    """Nodes and weights (768,) of the integral over N(0, 1): Gauss-Legendre with 8 nodes on each
    quarter of -12 .. 12, so that kinks at whole numbers (relu, relu6, hardswish) cost nothing."""
    nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(8))
    left = torch.arange(-12, 12, 0.25, dtype=torch.float64)
    z = (left[:, None] + (nodes + 1) / 8).flatten()
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    return z, weights.repeat(len(left)) / 8 * density


class ReLUSquared(nn.Module):
    """max(x, 0)^2, So et al. 2021 (Primer), https://arxiv.org/abs/2109.08668"""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu().square()


class Maxout(nn.Module):
    """(B, F * P, ...) -> (B, F, ...), the largest of each P neighbours, which are the `pieces` of a
    unit: the layer before has P times its width. Goodfellow et al. 2013,
    https://arxiv.org/abs/1302.4389"""

    def __init__(self, pieces: int = 2):
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, self.pieces)).amax(2)

    def extra_repr(self) -> str:
        return f"pieces={self.pieces}"


@dataclass(frozen=True)
class PReLU:
    """He et al. 2015, https://arxiv.org/abs/1502.01852: leaky relu whose slope is learned, one
    `per` layer or channel. A factory of torch's, which wants the number of slopes."""

    per: str = "layer"
    slope: float = 0.25

    def of_width(self, width: int) -> nn.Module:
        return nn.PReLU(width if self.per == "channel" else 1, init=self.slope)

    def __call__(self) -> nn.Module:
        """Raises ConfigError for one slope per channel: the width is not known."""
        if self.per == "channel":
            raise ConfigError(
                "activation.per = channel: the width of the layer is not known here; use per=layer"
            )
        return self.of_width(1)
