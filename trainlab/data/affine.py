"""More affine preprocessing, fitted on the training split alone. Named by conf/preprocess/.

Letters: N samples, C channels, H W image, F features.
"""

import torch
from torch import Tensor

from trainlab.data.preprocess import Affine, mean_std, per_channel, standardized


def none(x: Tensor, max_value: float) -> Affine:
    """Raw values as floats."""
    one = torch.ones((x.shape[1], 1, 1) if x.dim() == 4 else (x.shape[1],))
    return Affine(one, torch.zeros_like(one))


def center_channel(x: Tensor, max_value: float) -> Affine:
    """x / max_value minus its mean per channel (images) or per feature (tables) of x (N, ...)."""
    return _centered(x, max_value, per_channel(x))


def scale01(x: Tensor, max_value: float) -> Affine:
    """Images (N, C, H, W): x / max_value. Tables (N, F): from each feature's least and greatest
    training value to 0 .. 1; a constant feature becomes 0."""
    if x.dim() == 4:
        scale = torch.full((x.shape[1], 1, 1), 1 / max_value)
        return Affine(scale, torch.zeros_like(scale))
    low, high = x.amin(0).double(), x.amax(0).double()
    scale = 1 / torch.where(high == low, 1.0, high - low)
    return Affine(scale.float(), (-low * scale).float())


def center_scalar(x: Tensor, max_value: float) -> Affine:
    """x / max_value minus one number, the mean over all samples, channels and pixels."""
    return _centered(x, max_value, tuple(range(x.dim())))


def center_image(x: Tensor, max_value: float) -> Affine:
    """x / max_value minus the mean image (C, H, W), or the mean row (F,) of a table."""
    return _centered(x, max_value, (0,))


def standardize_pixel(x: Tensor, max_value: float) -> Affine:
    """As `center_image`, then each pixel divided by its standard deviation over N.

    A pixel that is constant in x (the black border of digits) gets 1, so it becomes 0; on other
    splits it may be anything, in units of max_value.
    """
    return standardized(x, max_value, (0,))


def _centered(x: Tensor, max_value: float, axes: tuple[int, ...]) -> Affine:
    """x / max_value minus its mean over `axes`."""
    mean, _ = mean_std(x, max_value, axes)
    return Affine(torch.full_like(mean, 1 / max_value).float(), -mean.float())
