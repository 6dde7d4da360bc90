"""Preprocessing, fitted on the training split alone. Named by conf/preprocess/.

Each is one multiply-add, z = x * scale + shift, so it is cheap per batch and invertible.
Letters: B batch, N samples, C channels, H W image, F features.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from trainlab.config import did_you_mean, words
from trainlab.data.splits import Splits
from trainlab.errors import ConfigError

MANIFEST_LIMIT = 1000  # numbers; more go into a file, as a manifest is written at every checkpoint


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
        """Undo the preprocessing, to show an image or a feature."""
        return (z - self.shift) / self.scale

    def state(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint keeps; `Affine(**state)` restores the map."""
        return {"scale": self.scale, "shift": self.shift}

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Affine":
        return Affine(self.scale.to(device, dtype), self.shift.to(device, dtype))

    def expand(self, shape: torch.Size | tuple[int, ...]) -> "Affine":
        """The same map, expanded to the shape of one sample.

        On a CPU addcmul is slow with a scalar per channel: MNIST B=128 57 us, expanded 14 us.
        """
        return Affine(*(t.expand(shape).contiguous() for t in (self.scale, self.shift)))

    def manifest_entry(self) -> dict[str, Any]:
        """The state for a manifest: the numbers, or the name of the file that `write_file`
        writes."""
        if self.scale.numel() <= MANIFEST_LIMIT:
            return {name: t.tolist() for name, t in self.state().items()}
        from trainlab.data import preprocess_file

        return preprocess_file.reference(self.state())

    def write_file(self, run: Path) -> None:
        """Write that file into the run folder, where the state is too large for the manifest."""
        if self.scale.numel() > MANIFEST_LIMIT:
            from trainlab.data import preprocess_file

            preprocess_file.write(run, self.state())

    def shape(self, before: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a sample after it."""
        return before


def fit(door: Callable, node: Any, own: dict[str, Any], splits: Splits) -> tuple[Any, Any]:
    """The preprocessing of training, and that of validation and test: the same one, unless
    `preprocess.test` names another word. Both are fitted on the training split."""
    fitted = door(node)(splits.train.x, splits.max_value)
    if own["test"] is None:
        return fitted, fitted
    return fitted, mismatched(own["test"], door, splits, fitted)


def standardize(x: Tensor, max_value: float) -> Affine:
    """x / max_value minus its mean per channel (images) or per feature (tables) of x (N, ...), then
    divided by the standard deviation (over N, no Bessel correction).

    A channel or feature that is constant in x gets standard deviation 1, so it becomes 0.
    LeCun, Bottou, Orr, Mueller, Efficient BackProp (1998), section 4.3.
    """
    return standardized(x, max_value, per_channel(x))


def per_channel(x: Tensor) -> tuple[int, ...]:
    """The axes of x (N, C, H, W) or (N, F) that one statistic is taken over."""
    return (0, 2, 3) if x.dim() == 4 else (0,)


def standardized(x: Tensor, max_value: float, axes: tuple[int, ...]) -> Affine:
    """x / max_value, to mean 0 and standard deviation 1 over `axes`; what is constant becomes 0."""
    mean, std = mean_std(x, max_value, axes)
    return Affine((1 / (max_value * std)).float(), (-mean / std).float())


def mean_std(x: Tensor, max_value: float, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and std of x / max_value over `axes` in float64, broadcastable to one sample.

    Two passes, since E[x^2] - E[x]^2 cancels for features far from 0; in chunks and in place,
    since the whole of MNIST in float64 is 345 MB (29 ms on one core, 50 ms not in place).
    """

    def sum_over_axes(parts: Iterable[Tensor]) -> Tensor:
        return sum(part.sum(axes, keepdim=True)[0] for part in parts)

    chunks = x.split(256)
    total = sum_over_axes(part.double() for part in chunks)
    count = math.prod(x.shape) // total.numel()
    mean = total / count
    squares = sum_over_axes(part.double().sub_(mean).square_() for part in chunks)
    # the std of a constant column may differ from 0 by rounding, so compare the values
    low = torch.stack([part.amin(axes, keepdim=True)[0] for part in chunks]).amin(0)
    high = torch.stack([part.amax(axes, keepdim=True)[0] for part in chunks]).amax(0)
    return mean / max_value, torch.where(low == high, 1.0, (squares / count).sqrt() / max_value)


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


def mismatched(word: str, door: Callable, splits: Splits, usual: Any) -> Any:
    """The preprocessing `word` with the keys of its file, also fitted on the training split.

    A deliberate mistake: the network trains on `usual` and is evaluated on this one. Raises
    ConfigError for an unknown word and for one whose samples have another shape.
    """
    known = words.groups()["preprocess"]
    if word not in known:
        raise did_you_mean.unknown_word("preprocess.test", word, known, None)
    node = OmegaConf.load(words.conf() / "preprocess" / f"{word}.yaml")
    fitted = door(OmegaConf.create({"preprocess": node})["preprocess"])
    fitted = fitted(splits.train.x, splits.max_value)
    shapes = [tuple(part.shape(splits.shape)) for part in (usual, fitted)]
    if shapes[0] != shapes[1]:
        raise ConfigError(
            f"preprocess.test = {word}: gives samples {shapes[1]}, the network takes {shapes[0]}; "
            f"use a word that keeps the shape, such as preprocess.test=none"
        )
    return fitted
