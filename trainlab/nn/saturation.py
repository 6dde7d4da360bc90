"""Where an activation saturates."""

import math

import torch
from torch import nn

from trainlab.nn.activation import in_double

SATURATED, USUAL = 0.05, 4.0  # share of max |f'|; the |x| that count where f' grows without end


def saturates(activation: nn.Module) -> tuple[float, float]:
    """(low, high), to 1e-3: the x below and above which |f'| < 5 % of its maximum; -inf and inf
    where it never is. Of an f' that grows without end (relu_squared) the maximum over |x| <= 4."""
    f, width = in_double(activation)
    x = torch.linspace(-32, 32, 64001, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        slope = torch.autograd.grad(f(x[:, None].repeat(1, width)).sum(), x)[0].abs()
    x = x.detach()
    grows = slope.max() > 1.5 * slope[x.abs() <= 16].max()
    largest = slope[x.abs() <= USUAL].max() if grows else slope.max()
    steep = (slope >= SATURATED * largest).nonzero()
    first, last = int(steep[0]), int(steep[-1])
    low = -math.inf if first == 0 else float(x[first - 1])
    return low, math.inf if last == len(x) - 1 else float(x[last + 1])
