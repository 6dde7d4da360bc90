"""The data sets that are embedded or generated. Named by conf/data/."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainlab.config import keys
from trainlab.data.splits import FOR_TABLES, NO_FLIP, Split, Splits, split_three_ways, stratified
from trainlab.training.randomness import stream

DIGITS = Path(__file__).parent.parent / "data_files" / "digits.npz"


def load_splits(door: Callable, node: Any, options: dict[str, Any]) -> Splits:
    """The splits of a data word with the user's options (`options.apply_options`)."""
    splits = door(node)
    if options == keys.defaults()["data"]:
        return splits
    from trainlab.data.options import apply_options

    return apply_options(splits, node.get("split_seed", 0), **options)


def digits(split_seed: int = 0) -> Splits:
    """1,797 real 8x8 digits, values 0 to 16, embedded: 1,257 / 180 / 360, stratified.

    Alpaydin and Kaynak, Optical Recognition of Handwritten Digits (UCI, 1998),
    https://doi.org/10.24432/C50P49, CC BY 4.0.
    """
    with np.load(DIGITS, allow_pickle=False) as file:
        x, y = torch.from_numpy(file["x"]), torch.from_numpy(file["y"]).long()
    parts = (Split(x, y).take(part) for part in stratified(y, (1257, 180, 360), split_seed))
    return Splits(*parts, tuple("0123456789"), max_value=16.0, name="digits", keeps=NO_FLIP)


FILES = Path(__file__).parent.parent / "data_files"


def wine(split_seed: int = 0) -> Splits:
    """178 wines of three cultivars, 13 chemical measurements: 124 / 18 / 36, stratified.

    Aeberhard and Forina, Wine (UCI, 1992), https://doi.org/10.24432/C5PC7J, CC BY 4.0.
    """
    return _embedded("wine", split_seed)


def breast_cancer(split_seed: int = 0) -> Splits:
    """569 tumours, malignant or benign, 30 measurements of cell nuclei: 398 / 57 / 114, stratified.

    Wolberg, Mangasarian, Street and Street, Breast Cancer Wisconsin (Diagnostic) (UCI, 1993),
    https://doi.org/10.24432/C5DW2B, CC BY 4.0.
    """
    return _embedded("breast_cancer", split_seed)


def _embedded(name: str, split_seed: int) -> Splits:
    with np.load(FILES / f"{name}.npz", allow_pickle=False) as file:
        x, y = torch.from_numpy(file["x"]).float(), torch.from_numpy(file["y"]).long()
        classes, columns = (tuple(map(str, file[key])) for key in ("classes", "columns"))
    facts = {"max_value": 1.0, "name": name, "keeps": FOR_TABLES, "columns": columns}
    return split_three_ways(Split(x, y), classes, split_seed, **facts)


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

    Their centres are evenly spaced on a circle of radius `spread`, so every seed is equally hard.
    """
    y, _ = _labels(samples, groups)
    angle = 2 * math.pi * y / groups
    centre = spread * torch.stack([angle.cos(), angle.sin()], 1)
    x = centre + noise * torch.randn(samples, 2, generator=stream(split_seed, "blobs"))
    return _toy("blobs", x, y, groups, split_seed)


def two_moons(samples: int = 600, noise: float = 0.1, split_seed: int = 0) -> Splits:
    """Two interleaved half circles with Gaussian noise on both coordinates.

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
    facts = {"max_value": 1.0, "name": name, "keeps": FOR_TABLES, "columns": ("x", "y")}
    return split_three_ways(Split(x.float(), y), names, split_seed, **facts)
