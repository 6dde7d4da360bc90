"""Rules for one weight that torch.nn.init lacks. Named by conf/init/."""

import math

import torch
from torch import Tensor, nn

TRUNCATED = 0.87962566103423978  # standard deviation of N(0, 1) within -2 .. 2


def truncated(weight: Tensor, scale: float = 1.0, fan: str = "in") -> Tensor:
    """Variance scale / fan, drawn from a normal distribution cut at two of its standard deviations;
    fan: in, out or the mean of both. Keras' VarianceScaling,
    https://keras.io/api/layers/initializers/#variancescaling-class; in place."""
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(weight)
    count = {"in": fan_in, "out": fan_out, "mean": (fan_in + fan_out) / 2}[fan]
    std = math.sqrt(scale / count) / TRUNCATED
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


@torch.no_grad()
def identity(weight: Tensor) -> Tensor:
    """Each output is the input of the same number, as far as there are as many: ones on the
    diagonal; of a convolution (odd kernel) on that of its central tap. In place."""
    center = tuple(size // 2 for size in weight.shape[2:])
    weight.zero_()[(slice(None), slice(None), *center)].fill_diagonal_(1.0)
    return weight
