"""Preprocessing with a full matrix: pca, whiten, zca. Named by conf/preprocess/.

Fitted on the training split alone, in float64. Letters: B batch, N samples, C channels, H W image,
F features or pixels (C*H*W), D directions kept.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainlab.data import preprocess_file
from trainlab.errors import DataError

LARGEST = 8192  # pixels; their covariance takes 512 MiB in float64 and its eigenvectors minutes


@dataclass(frozen=True, eq=False)
class Linear:
    """z = (x - mean) W', reshaped to `after`; its inverse is x = z V' + mean.

    x is (B, *before) of any number type; mean (F,), forward W (D, F), backward V (F, D). The same
    interface as `preprocess.Affine`.
    """

    mean: Tensor
    forward: Tensor
    backward: Tensor
    before: tuple[int, ...]
    after: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        flat = x.flatten(1).to(self.mean.dtype) - self.mean  # (B, F)
        return (flat @ self.forward.T).unflatten(1, self.after)

    def inverse(self, z: Tensor) -> Tensor:
        """Undo the preprocessing: exact with all directions, else the projection onto those
        kept."""
        return (z.flatten(1) @ self.backward.T + self.mean).unflatten(1, self.before)

    def state(self) -> dict[str, Tensor]:
        """The tensors that a run keeps; `restored(state)` is the same map."""
        shapes = {"before": torch.tensor(self.before), "after": torch.tensor(self.after)}
        return {"mean": self.mean, "forward": self.forward, "backward": self.backward} | shapes

    def manifest_entry(self) -> dict[str, Any]:
        """The manifest's reference to the file that `write_file` writes."""
        return preprocess_file.reference(self.state())

    def write_file(self, run: Path) -> None:
        """Write that file into the run folder."""
        preprocess_file.write(run, self.state())

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Linear":
        moved = (t.to(device, dtype) for t in (self.mean, self.forward, self.backward))
        return Linear(*moved, self.before, self.after)

    def expand(self, shape: torch.Size | tuple[int, ...]) -> "Linear":
        """Itself: a matrix already fits one shape of samples."""
        return self

    def shape(self, before: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a sample after it."""
        return self.after


def restored(state: dict[str, Tensor]) -> Linear:
    """The inverse of `Linear.state`."""
    shapes = {name: tuple(state[name].tolist()) for name in ("before", "after")}
    return Linear(**state | shapes)


def pca(x: Tensor, max_value: float, components: int | None = None, share: float = 0.99) -> Linear:
    """Principal components (B, D) of x / max_value, largest variance first, not scaled.

    D is `components`, or with null the smallest number that explains `share` of the variance (at
    most N - 1 and F). Pearson 1901; LeCun et al. 1998, section 4.3. Raises DataError where there
    are fewer directions than `components`.
    """
    mean, variance, basis = _principal(x, max_value, "pca")
    rank = min(len(x) - 1, len(variance))
    if components is not None and components > rank:
        raise DataError(
            f"preprocess.components = {components}: {len(x)} images of {len(variance)} pixels have "
            f"{rank} directions; use preprocess.components={rank}"
        )
    explained = variance.cumsum(0) / variance.sum().clamp(min=1e-300)
    enough = int((explained < share - 1e-12).sum()) + 1
    kept = basis[:, : components or min(enough, rank)]  # (F, D)
    return _linear(x, max_value, mean, kept.T, kept, (kept.shape[1],))


def whiten(x: Tensor, max_value: float, eps: float = 1e-5) -> Linear:
    """All principal components (B, F), each divided by sqrt(variance + eps).

    eps is a variance in units of max_value^2 (1e-5 as in CS231n): directions of smaller variance
    are damped instead of amplified, and a constant one becomes 0. The covariance is the
    identity where the variance is much larger than eps. Raises DataError unless N > F.
    """
    mean, variance, basis = _enough(x, max_value, "whiten")
    std = (variance + eps).sqrt()
    shape = (len(std),)
    return _linear(x, max_value, mean, (basis / std).T, basis * std, shape)  # rotate, then scale


def zca(x: Tensor, max_value: float, eps: float = 1e-5) -> Linear:
    """`whiten`, rotated back: the whitened data closest to x; keeps the shape (C, H, W).

    Bell and Sejnowski 1997; eps as in `whiten`. Raises DataError unless N > F.
    """
    mean, variance, basis = _enough(x, max_value, "zca")
    std = (variance + eps).sqrt()
    forward, backward = basis / std @ basis.T, basis * std @ basis.T
    return _linear(x, max_value, mean, forward, backward, tuple(x.shape[1:]))


def _linear(
    x: Tensor,
    max_value: float,
    mean: Tensor,
    forward: Tensor,
    backward: Tensor,
    after: tuple[int, ...],
) -> Linear:
    """A map fitted to x / max_value as one of raw x, in float32."""
    parts = (mean * max_value, forward / max_value, backward * max_value)
    return Linear(*(part.float().contiguous() for part in parts), tuple(x.shape[1:]), after)


def _enough(x: Tensor, max_value: float, word: str) -> tuple[Tensor, Tensor, Tensor]:
    n, pixels = len(x), math.prod(x.shape[1:])
    if n <= pixels:
        raise DataError(
            f"preprocess = {word}: needs more images than pixels: got {n} images of {pixels} "
            f"pixels; use preprocess=standardize, or data.train_size >= {pixels + 1}"
        )
    return _principal(x, max_value, word)


def _principal(x: Tensor, max_value: float, word: str) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (F,), variances (F,) falling, and directions (F, F) as columns of x / max_value."""
    chunks, n, pixels = x.split(1024), len(x), math.prod(x.shape[1:])
    if pixels > LARGEST:
        raise DataError(
            f"preprocess = {word}: a matrix of {pixels} x {pixels} pixels takes "
            f"{pixels**2 * 8 / 2**30:.0f} GiB, at most {LARGEST} pixels are allowed; "
            f"use preprocess=standardize, or smaller images"
        )
    mean = sum(part.flatten(1).double().sum(0) for part in chunks) / n / max_value
    cov = torch.zeros(pixels, pixels, dtype=torch.float64)
    for part in chunks:
        centred = part.flatten(1).double() / max_value - mean  # (n, F)
        cov.addmm_(centred.T, centred, alpha=1 / n)  # x' x / N
    variance, basis = torch.linalg.eigh(cov)  # cov = basis diag(variance) basis'
    variance, basis = variance.flip(0).clamp(min=0), basis.flip(1)
    # the sign of a direction is arbitrary: make its largest entry positive on every machine
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    return mean, variance, basis * largest.sign()
