"""A data set: three labelled splits, checked once, usually held on the device.

Letters: N samples, C channels, H W image, F features, K classes.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from trainlab.errors import ConfigError, DataError
from trainlab.training.randomness import stream

# augmentations that keep the labels of handwriting: a mirrored 2 is not a digit
NO_FLIP = ("shift", "pad_crop", "rotate", "noise", "cutout", "jitter", "mixup", "cutmix")
FOR_IMAGES = ("flip", *NO_FLIP)  # those that keep the labels of photographs
FOR_TABLES = ("noise", "mixup")
SHARES = (0.7, 0.1, 0.2)  # of training, validation and test where the data have no splits


@dataclass(frozen=True, eq=False)
class Split:
    """x (N, C, H, W) uint8 images or (N, F) float32 tables, y (N,) int64 labels."""

    x: Any  # a Tensor, or Rows of a file on disk (memory_map.py)
    y: Tensor

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise DataError(
                f"data: {len(self.x)} samples but {len(self.y)} labels; give one label per sample"
            )

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: Tensor) -> "Split":
        """The samples named by index (n,) int64, in that order."""
        return Split(self.x.index_select(0, index), self.y.index_select(0, index))

    def to(self, device: torch.device | str) -> "Split":
        return Split(self.x.to(device), self.y.to(device))


@dataclass(frozen=True, eq=False)
class Splits:
    """Train, validation and test data with the same shape and the same class list.

    `max_value` is the largest value a pixel can have (255 for 8-bit images; 1 for tables), `keeps`
    the augmentations that keep the labels, `columns` the names of a table's features where they
    are known, `notices` remarks for the user on how the data were read.
    Raises DataError for anything that would break training later, or spoil it silently.
    """

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    max_value: float
    name: str
    keeps: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for part, split in self.parts().items():
            _check_split(f"data = {self.name}: {part}", split, self.train, self.classes)
        counts = self.train.y.bincount(minlength=len(self.classes))
        for name, count in zip(self.classes, counts.tolist(), strict=True):
            if count == 0:
                raise DataError(
                    f"data = {self.name}: class {name} has no training sample; "
                    f"add samples of it or remove the class"
                )
        if not (math.isfinite(self.max_value) and self.max_value > 0):
            raise DataError(
                f"data = {self.name}: max_value {self.max_value} must be finite and > 0; use 255"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) or (F,)."""
        return tuple(self.train.x.shape[1:])

    def parts(self) -> dict[str, Split]:
        return {"train": self.train, "val": self.val, "test": self.test}

    def to(self, device: torch.device | str) -> "Splits":
        return replace(self, **{part: split.to(device) for part, split in self.parts().items()})

    def digest(self) -> str:
        """sha256 over counts, shape, classes, pixels and labels; the same on every device."""
        sizes = [len(split) for split in self.parts().values()]
        head = (sizes, self.shape, str(self.train.x.dtype), self.classes, float(self.max_value))
        digest = hashlib.sha256(repr(head).encode())
        for split in self.parts().values():
            for part in split.x.split(
                4096
            ):  # in chunks, since images on disk need not fit in memory
                digest.update(part.contiguous().cpu().numpy())
            digest.update(split.y.contiguous().cpu().numpy())
        return digest.hexdigest()


def _check_split(where: str, split: Split, train: Split, classes: Sequence[str]) -> None:
    x, y = split.x, split.y
    if len(y) == 0:
        raise DataError(f"{where} is empty; give every split at least one sample")
    image, table = (torch.uint8, 4), (torch.float32, 2)
    if (x.dtype, x.dim()) not in (image, table) or (y.dtype, y.dim()) != (torch.int64, 1):
        raise DataError(
            f"{where} has x {tuple(x.shape)} {x.dtype} and y {tuple(y.shape)} {y.dtype}; "
            f"x must be (N, C, H, W) uint8 or (N, F) float32, y (N,) int64"
        )
    if x.shape[1:] != train.x.shape[1:] or x.dtype != train.x.dtype:
        raise DataError(
            f"{where} has samples {tuple(x.shape[1:])} {x.dtype}, train has "
            f"{tuple(train.x.shape[1:])} {train.x.dtype}; all splits must agree"
        )
    outside = (y < 0) | (y >= len(classes))
    if outside.any():
        sample = int(outside.nonzero()[0])
        raise DataError(
            f"{where} sample {sample} has label {int(y[sample])}; "
            f"labels must be 0 to {len(classes) - 1} ({len(classes)} classes)"
        )
    if x.is_floating_point() and not x.isfinite().all():
        sample, feature = (~x.isfinite()).nonzero()[0].tolist()
        raise DataError(
            f"{where} sample {sample} feature {feature} is {float(x[sample, feature])}; "
            f"every feature must be finite: repair or drop the sample"
        )


def stratified(y: Tensor, sizes: Sequence[int], seed: int) -> tuple[Tensor, ...]:
    """Split the labels y (N,) into parts of exactly these sizes, as sorted index tensors.

    In every part every class has its share n_class * size / N, rounded up or down: the rounded
    down shares first, then each class gives its spare samples to the parts that lack most, which
    always gives the exact sizes (Gale 1957, Ryser 1957). The seed alone decides which sample goes
    where.
    """
    if min(sizes) < 0 or sum(sizes) != len(y):
        raise DataError(f"data: sizes {sizes} must be >= 0 and add up to the {len(y)} samples")
    classes, counts = y.unique(return_counts=True)
    share = counts[:, None] * torch.tensor(sizes) // len(y)  # (K, parts), rounded down
    lacking = torch.tensor(sizes) - share.sum(0)  # (parts,)
    parts: list[list[Tensor]] = [[] for _ in sizes]
    for row, label in enumerate(classes.tolist()):
        spare = int(counts[row] - share[row].sum())
        neediest = lacking.argsort(descending=True, stable=True)[:spare]
        share[row, neediest] += 1
        lacking[neediest] -= 1
        members = (y == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=stream(seed, "split", label))]
        for part, chunk in zip(parts, members.split(share[row].tolist()), strict=True):
            part.append(chunk)
    return tuple(torch.cat(part).sort().values for part in parts)


def split_three_ways(both: Split, classes: Sequence[str], split_seed: int, **facts: Any) -> Splits:
    """Split 70 / 10 / 20 %, stratified. `facts` are the other fields of Splits: max_value, name,
    keeps, ..."""
    n = len(both)
    val, test = round(SHARES[1] * n), round(SHARES[2] * n)
    if min(val, test) < 1:
        raise DataError(
            f"data = {facts['name']}: {n} samples are too few for three splits; give at least 5"
        )
    parts = stratified(both.y, (n - val - test, val, test), split_seed)
    return Splits(*(both.take(part) for part in parts), tuple(classes), **facts)


def split_off_validation(
    both: Split, test: Split, classes: Sequence[str], split_seed: int, val_size: int, **facts: Any
) -> Splits:
    """Take `val_size` samples of `both`, stratified, as validation; `test` is the official test
    split."""
    if not 0 < val_size < len(both):
        usual = max(len(both) // 10, 1)
        raise ConfigError(
            f"data.val_size = {val_size}: must be 1 to {len(both) - 1}; type data.val_size={usual}"
        )
    train, val = stratified(both.y, (len(both) - val_size, val_size), split_seed)
    return Splits(both.take(train), both.take(val), test, tuple(classes), **facts)
