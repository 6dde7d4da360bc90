"""Preprocessing, fitted on the training split alone. Named by conf/preprocess/.

Each is one multiply-add, z = x * scale + shift, so it folds into the batch and can be undone.
Letters: B batch, N samples, C channels, H W image, F features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Affine:
    """z = x * scale + shift, with scale and shift broadcastable to one sample.

    Takes x (B, C, H, W) or (B, F) of any number type (uint8 pixels included) and returns the
    float type of scale and shift. scale must not be 0, or `inverse` has nothing to return.
    """

    scale: Tensor
    shift: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, x, self.scale)

    def inverse(self, z: Tensor) -> Tensor:
        """Back to the values before, for showing an image or a feature."""
        return (z - self.shift) / self.scale

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps; `Affine(**state)` is the same map again."""
        return {"scale": self.scale, "shift": self.shift}

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Affine":
        return Affine(self.scale.to(device, dtype), self.shift.to(device, dtype))

    def expand(self, shape: torch.Size | tuple[int, ...]) -> "Affine":
        """The same map laid out for samples of one shape.

        On a CPU addcmul is slow with a scalar per channel: MNIST B=128 57 us, laid out 14 us.
        """
        return Affine(*(t.expand(shape).contiguous() for t in (self.scale, self.shift)))


def none(x: Tensor, max_value: float) -> Affine:
    """Raw values as floats."""
    one = torch.ones(_statistic_shape(x))
    return Affine(one, torch.zeros_like(one))


def center_channel(x: Tensor, max_value: float) -> Affine:
    """x / max_value minus its mean per channel (images) or per feature (tables) of x (N, ...)."""
    mean, _ = _mean_std(x, max_value)
    return _affine(torch.full_like(mean, 1 / max_value), -mean)


def standardize(x: Tensor, max_value: float) -> Affine:
    """As `center_channel`, then divided by the standard deviation (over N, no Bessel correction).

    A channel or feature that is constant in x gets standard deviation 1, so it becomes 0.
    LeCun, Bottou, Orr, Mueller, Efficient BackProp (1998), section 4.3.
    """
    mean, std = _mean_std(x, max_value)
    return _affine(1 / (max_value * std), -mean / std)


def _affine(scale: Tensor, shift: Tensor) -> Affine:
    return Affine(scale.float(), shift.float())


def _statistic_shape(x: Tensor) -> tuple[int, ...]:
    return (x.shape[1], 1, 1) if x.dim() == 4 else (x.shape[1],)


def _mean_std(x: Tensor, max_value: float) -> tuple[Tensor, Tensor]:
    """Mean and std of x / max_value in float64, each (C, 1, 1) or (F,).

    Two passes, since E[x^2] - E[x]^2 cancels for features far from 0; in chunks and in place,
    since the whole of MNIST in float64 is 345 MB (29 ms on one core, 50 ms not in place).
    """
    axes = (0, 2, 3) if x.dim() == 4 else (0,)
    shape, count, chunks = _statistic_shape(x), x.numel() // x.shape[1], x.split(256)
    mean = sum(part.double().sum(axes) for part in chunks).view(shape) / count
    squares = sum(part.double().sub_(mean).square_().sum(axes) for part in chunks).view(shape)
    # a constant column may miss std 0 by a rounding error, so ask the values themselves
    constant = (x.amax(axes) == x.amin(axes)).view(shape)
    std = torch.where(constant, 1.0, (squares / count).sqrt() / max_value)
    return mean / max_value, std
