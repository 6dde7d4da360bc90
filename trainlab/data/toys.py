"""Points in the plane, drawn from a seed. Named by conf/data/. N samples, K classes.

Each function returns splits of 70 / 10 / 20 %, x (N, 2) float32, as many points of each class as
of any other to within one. `split_seed` draws the points and deals them out.
"""

import math

import torch
from torch import Tensor

from trainlab.data.dealt import FOR_TABLES, dealt
from trainlab.data.splits import Split, Splits
from trainlab.training.randomness import stream


def spirals(
    samples: int = 600,
    groups: int = 3,
    turns: float = 0.64,
    noise: float = 0.2,
    split_seed: int = 0,
) -> Splits:
    """`groups` arms that wind `turns` times around the origin, out to radius 1.

    An arm's angle is 2 pi (turns r + k / K) + noise * Gaussian (radians), as in CS231n, minimal
    network case study, https://cs231n.github.io/neural-networks-case-study/.
    """
    y, within = _labels(samples, groups)
    sizes = y.bincount(minlength=groups)
    r = within / (sizes[y] - 1).clamp(min=1)  # 0 at the centre to 1
    g = stream(split_seed, "spirals")
    angle = 2 * math.pi * (turns * r + y / groups) + noise * torch.randn(samples, generator=g)
    x = torch.stack([r * angle.sin(), r * angle.cos()], 1)
    return _toy("spirals", x, y, groups, split_seed)


def blobs(
    samples: int = 600,
    groups: int = 3,
    spread: float = 1.0,
    noise: float = 0.2,
    split_seed: int = 0,
) -> Splits:
    """`groups` round Gaussian clouds of standard deviation `noise`.

    Their centres lie evenly on a circle of radius `spread`, so the task is as hard for every seed.
    """
    y, _ = _labels(samples, groups)
    angle = 2 * math.pi * y / groups
    centre = spread * torch.stack([angle.cos(), angle.sin()], 1)
    x = centre + noise * torch.randn(samples, 2, generator=stream(split_seed, "blobs"))
    return _toy("blobs", x, y, groups, split_seed)


def two_moons(samples: int = 600, noise: float = 0.1, split_seed: int = 0) -> Splits:
    """Two half circles that reach into each other, with Gaussian noise on both coordinates.

    (cos t, sin t) and (1 - cos t, 1/2 - sin t) for t evenly from 0 to pi; as scikit-learn's
    make_moons.
    """
    y, within = _labels(samples, 2)
    t = math.pi * within / (y.bincount(minlength=2)[y] - 1)
    upper = torch.stack([t.cos(), t.sin()], 1)
    lower = torch.stack([1 - t.cos(), 0.5 - t.sin()], 1)
    x = torch.where(y[:, None] == 0, upper, lower)
    x = x + noise * torch.randn(samples, 2, generator=stream(split_seed, "two_moons"))
    return _toy("two_moons", x, y, 2, split_seed)


def _labels(samples: int, groups: int) -> tuple[Tensor, Tensor]:
    """y (N,) = 0, 1, ..., 0, 1, ..., and the position of each sample within its class (N,)."""
    index = torch.arange(samples)
    return index % groups, (index // groups).double()


def _toy(name: str, x: Tensor, y: Tensor, groups: int, split_seed: int) -> Splits:
    names = tuple(map(str, range(groups)))
    told = {"max_value": 1.0, "name": name, "keeps": FOR_TABLES, "columns": ("x", "y")}
    return dealt(Split(x.float(), y), names, split_seed, **told)
