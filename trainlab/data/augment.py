"""Augmentation of training batches; every sample is augmented with random numbers of its own. Named
by conf/augment/.

A word takes raw x (before the preprocessing), y and a `Draw`, and returns x and y of the same B. It
keeps uint8 where it only moves pixels and returns float32 where it computes; values stay within 0
to max_value. Letters: B batch, C channels, H W image, F features, K classes.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from trainlab.data.splits import Splits
from trainlab.errors import ConfigError
from trainlab.training.randomness import number


@dataclass(frozen=True)
class Draw:
    """The random numbers of one augmentation at one step, and what it needs to know of the data:
    `max_value` is the largest value of a pixel, `classes` is K."""

    generator: torch.Generator
    max_value: float
    classes: int

    def uniform(self, n: int, low: float, high: float) -> Tensor:
        """(n,) float32 in low .. high."""
        u = torch.rand(n, generator=self.generator, device=self.generator.device)
        return low + (high - low) * u

    def integers(self, n: int, low: int, high: int) -> Tensor:
        """(n,) int64 in low .. high - 1."""
        device = self.generator.device
        return torch.randint(low, high, (n,), generator=self.generator, device=device)

    def beta(self, n: int, alpha: float) -> Tensor:
        """(n,) float32 from Beta(alpha, alpha), the law of the first of two Dirichlet shares."""
        # private: torch.distributions' Beta and Dirichlet take no generator, and a Gamma's would
        # draw others; in float64 as float32 is 0/0 for small alpha
        both = torch.full((n, 2), alpha, dtype=torch.float64, device=self.generator.device)
        return torch._sample_dirichlet(both, self.generator)[:, 0].float()

    def partners(self, n: int) -> Tensor:
        """(n,) a permutation: the sample that each one is mixed with."""
        return torch.randperm(n, generator=self.generator, device=self.generator.device)


Part = Callable[[Tensor, Tensor, Draw], tuple[Tensor, Tensor]]


def apply_augment(
    parts: Sequence[Part],
    seed: int,
    max_value: float,
    classes: int,
    x: Tensor,
    y: Tensor,
    step: int,
) -> tuple[Tensor, Tensor]:
    """x (B, ...) and y of one step after all parts, in order; y (B,) int64, or (B, K) class shares.

    A pure function of (seed, step): it saves no state and touches no other random stream.
    """
    for position, part in enumerate(parts):
        generator = torch.Generator(x.device).manual_seed(number(seed, "augment", step, position))
        x, y = part(x, y, Draw(generator, max_value, classes))
    return x, y


def make_augment(parts: Sequence[Part], seed: int, splits: Splits) -> Callable:
    """`apply_augment` for one data set, (x, y, step) -> (x, y). A part that refuses raises here."""
    change = partial(apply_augment, parts, seed, splits.max_value, len(splits.classes))
    change(splits.train.x[:1], splits.train.y[:1], 0)
    return change


def label_warnings(words: Iterable[str], splits: Splits) -> list[str]:
    """A warning for each augmentation that the data set does not list as label-preserving."""
    names = [word for word in words if word not in splits.keeps]
    return [f"augment = {n}: may change the labels of {splits.name}" for n in names]


def flip(x: Tensor, y: Tensor, draw: Draw, p: float = 0.5) -> tuple[Tensor, Tensor]:
    """Mirror left to right with probability p. Krizhevsky et al. 2012, section 4.1."""
    _require_images(x, "flip")
    mirrored = draw.uniform(len(x), 0, 1) < p
    return torch.where(mirrored.view(-1, 1, 1, 1), x.flip(3), x), y


def shift(
    x: Tensor, y: Tensor, draw: Draw, pixels: int = 2, fill: str = "edge"
) -> tuple[Tensor, Tensor]:
    """Shift by up to `pixels` vertically and horizontally; the border is filled with the last row
    or column (`edge`) or 0 (`zero`). Simard, Steinkraus and Platt 2003."""
    _require_images(x, "shift")
    padded = _pad_with_edge(x, pixels) if fill == "edge" else functional.pad(x, (pixels,) * 4)
    return _windows(padded, draw, 2 * pixels, x.shape), y


def pad_crop(x: Tensor, y: Tensor, draw: Draw, pad: int = 4) -> tuple[Tensor, Tensor]:
    """Pad by `pad` zeros on each side, then crop a random window of the original size.
    He et al. 2016, section 4.2."""
    _require_images(x, "pad_crop")
    return _windows(functional.pad(x, (pad,) * 4), draw, 2 * pad, x.shape), y


def rotate(x: Tensor, y: Tensor, draw: Draw, degrees: float = 15.0) -> tuple[Tensor, Tensor]:
    """Rotate about the centre by -degrees .. degrees, bilinear, 0 outside. Simard et al. 2003."""
    _require_images(x, "rotate")
    return rotated(x, draw.uniform(len(x), -degrees, degrees)).clamp_(0, draw.max_value), y


def noise(x: Tensor, y: Tensor, draw: Draw, std: float = 0.05) -> tuple[Tensor, Tensor]:
    """Add Gaussian noise: of std `std` * max_value for images, which are clamped to their range; of
    std `std` in each feature's own unit for tables. Bishop 1995."""
    z = torch.randn(x.shape, generator=draw.generator, device=x.device)
    if x.dim() == 2:
        return x + std * z, y
    return (x + std * draw.max_value * z).clamp_(0, draw.max_value), y


def cutout(x: Tensor, y: Tensor, draw: Draw, size: int = 4) -> tuple[Tensor, Tensor]:
    """Set a square of `size` pixels to 0; its centre is anywhere in the image, so part of it may
    lie outside. DeVries and Taylor 2017."""
    _require_images(x, "cutout")
    return x.masked_fill(_box(x, draw, *[torch.full((len(x),), size, device=x.device)] * 2), 0), y


def jitter(
    x: Tensor, y: Tensor, draw: Draw, brightness: float = 0.2, contrast: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Multiply all pixels by 1 - brightness .. 1 + brightness, then the distance from the image's
    mean by 1 - contrast .. 1 + contrast; clamped. Howard 2013."""
    _require_images(x, "jitter")
    light, factor = (
        draw.uniform(len(x), 1 - d, 1 + d).view(-1, 1, 1, 1) for d in (brightness, contrast)
    )
    x = (x * light).clamp_(0, draw.max_value)
    mean = x.mean((1, 2, 3), keepdim=True)
    return torch.lerp(mean, x, factor).clamp_(0, draw.max_value), y


def mixup(x: Tensor, y: Tensor, draw: Draw, alpha: float = 0.2) -> tuple[Tensor, Tensor]:
    """share * x + (1 - share) * x of a partner, labels likewise; share ~ Beta(alpha, alpha) for
    each sample. Zhang et al. 2018. Returns y (B, K)."""
    share, partner = draw.beta(len(x), alpha), draw.partners(len(x))
    weight = share.view(-1, *[1] * (x.dim() - 1))
    return weight * x + (1 - weight) * x[partner], _mixed(y, partner, share, draw.classes)


def cutmix(x: Tensor, y: Tensor, draw: Draw, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
    """Paste a box of a partner's image at a random place, of area 1 - share, share ~ Beta(alpha,
    alpha); labels are mixed by area. Yun et al. 2019. Returns y (B, K)."""
    _require_images(x, "cutmix")
    side, partner = (1 - draw.beta(len(x), alpha)).sqrt(), draw.partners(len(x))
    box = _box(x, draw, *((n * side).long() for n in x.shape[2:]))
    share = 1 - box.float().mean((1, 2, 3))  # the part of the box outside the image does not count
    return torch.where(box, x[partner], x), _mixed(y, partner, share, draw.classes)


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """x (B, C, H, W), each image rotated anticlockwise by its angle (B,) in degrees; float32."""
    height, width = x.shape[2:]
    a = angles * (math.pi / 180)
    cos, sin, zero = a.cos(), a.sin(), torch.zeros_like(a)
    # the source of each pixel, in units of half the width and half the height
    across = torch.stack([cos, -sin * height / width, zero], 1)
    down = torch.stack([sin * width / height, cos, zero], 1)
    grid = functional.affine_grid(torch.stack([across, down], 1), x.shape, align_corners=False)
    return functional.grid_sample(x.float(), grid, align_corners=False)


def _require_images(x: Tensor, word: str) -> None:
    if x.dim() != 4:
        raise ConfigError(
            f"augment = {word}: needs images (C, H, W), the data have shape {tuple(x.shape[1:])}; "
            "use augment=noise or augment=mixup"
        )


def _pad_with_edge(x: Tensor, pad: int) -> Tensor:
    """x (B, C, H, W) with its outermost rows and columns repeated; torch's pad takes no uint8."""
    for dim in (2, 3):
        index = torch.arange(-pad, x.shape[dim] + pad, device=x.device)
        x = x.index_select(dim, index.clamp_(0, x.shape[dim] - 1))
    return x


def _windows(padded: Tensor, draw: Draw, most: int, shape: torch.Size) -> Tensor:
    """One window (H, W) of each padded image; its corner is uniform over 0 .. most in both axes."""
    top, left = (draw.integers(shape[0], 0, most + 1) for _ in range(2))
    views = padded.unfold(2, shape[2], 1).unfold(3, shape[3], 1)  # (B, C, rows, columns, H, W)
    return views[torch.arange(shape[0], device=padded.device), :, top, left]


def _box(x: Tensor, draw: Draw, height: Tensor, width: Tensor) -> Tensor:
    """(B, 1, H, W), true in a box of height and width (B,) centred on a random pixel of each
    image."""
    inside = []
    for n, length in zip(x.shape[2:], (height, width), strict=True):
        start = (draw.integers(len(x), 0, n) - length // 2)[:, None]
        at = torch.arange(n, device=x.device)
        inside.append((at >= start) & (at < start + length[:, None]))
    return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]


def _mixed(y: Tensor, partner: Tensor, share: Tensor, classes: int) -> Tensor:
    """The mixed labels as class shares (B, K); y may be shares already."""
    y = y if y.is_floating_point() else functional.one_hot(y, classes).float()
    return torch.lerp(y[partner], y, share[:, None])
