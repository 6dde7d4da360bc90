"""The user's own data set in one .npz file. Named by conf/data/.

The file is not trusted: pickles are refused, and each size in it is checked against the file.
Letters: N samples, C channels, H W image, F features, K classes.
"""

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from trainlab.data.splits import (
    FOR_IMAGES,
    FOR_TABLES,
    Split,
    Splits,
    split_off_validation,
    split_three_ways,
)
from trainlab.errors import DataError

LARGEST = 2**34  # bytes of all arrays together, unpacked
PARTS = ("train", "val", "test")
WRITE = "np.savez(FILE, x=x, y=y)"
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def npz(
    root: str | None = None,
    split_seed: int = 0,
    val_size: int | None = None,
    max_value: float | None = None,
) -> Splits:
    """Arrays x and y, split 70 / 10 / 20 %; or x_train, y_train with x_test, y_test and optionally
    x_val, y_val (else `val_size` samples of train, null: a tenth).

    x: (N, F) numbers for a table; (N, H, W) or (N, C, H, W) uint8 for images, whose largest value
    is `max_value` (null: 255). y (N,): whole numbers or text. Optional: `classes` (K,) text, the
    names of y = 0 ... K - 1, and `columns` (F,) text. Raises DataError for anything else.
    """
    if root is None:
        raise DataError("data.root = null: data=npz needs a file; type data.root=FILE.npz")
    path = Path(root).expanduser()
    arrays = read(path)
    named = [part for part in PARTS if f"x_{part}" in arrays or f"y_{part}" in arrays]
    needed = [f"{axis}_{part}" for part in named for axis in "xy"] if named else ["x", "y"]
    if named and not {"train", "test"} <= set(named):
        needed = ["x_train", "y_train", "x_test", "y_test"]
    for name in needed:
        if name not in arrays:
            has = ", ".join(sorted(arrays)) or "nothing"
            raise DataError(
                f"{path}: has no array {name} (it has {has}); write it as {WRITE}, or with "
                f"x_train, y_train, x_test, y_test"
            )
    xs = [_samples(arrays[name], f"{path}: {name}") for name in needed[::2]]
    ys, classes = _labels([arrays[name] for name in needed[1::2]], arrays.get("classes"), path)
    splits = [Split(x, y) for x, y in zip(xs, ys, strict=True)]
    image = xs[0].dim() == 4
    facts: dict[str, Any] = {
        "max_value": max_value or (255.0 if image else 1.0),
        "name": "npz",
        "keeps": FOR_IMAGES if image else FOR_TABLES,
        "columns": tuple(map(str, arrays.get("columns", ()))),
    }
    if not image and len(facts["columns"]) not in (0, xs[0].shape[1]):
        raise DataError(
            f"{path}: columns names {len(facts['columns'])} of {xs[0].shape[1]} features; "
            f"give one name each"
        )
    if len(splits) == 3:
        return Splits(*splits, classes, **facts)
    if len(splits) == 2:
        size = val_size or max(len(splits[0]) // 10, 1)
        return split_off_validation(*splits, classes, split_seed, size, **facts)
    return split_three_ways(splits[0], classes, split_seed, **facts)


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file. Raises DataError for a file that is damaged, pickled, too large
    or not an .npz."""
    try:
        with zipfile.ZipFile(path) as file:
            members = [member for member in file.infolist() if member.filename.endswith(".npy")]
            size = sum(member.file_size for member in members)
            if size > LARGEST:
                raise DataError(
                    f"{path}: {size} bytes unpacked, at most {LARGEST} are read; "
                    f"use fewer samples or smaller types"
                )
            return {m.filename[:-4]: _array(file, m, path) for m in members}
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"data.root = {path}: not a whole .npz file ({reason}); write one with {WRITE}"
        ) from None


def _array(file: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> np.ndarray:
    """One array, after its header is checked against its size in bytes."""
    where = f"{path}: {member.filename[:-4]}"
    with file.open(member) as stream:
        try:
            shape, fortran, dtype = HEADERS[npy.read_magic(stream)](stream)
        except (ValueError, KeyError) as error:
            raise DataError(f"{where}: not an array ({error}); write it with {WRITE}") from None
        if dtype.hasobject:
            raise DataError(f"{where}: holds Python objects, which are pickled and not read; "
                            f"store numbers or text, such as x.astype('float32')")  # fmt: skip
        n_bytes = math.prod(shape) * dtype.itemsize
        data = stream.read(n_bytes + 1)
        if len(data) != n_bytes:
            raise DataError(f"{where}: its size does not match its header, {shape} {dtype}; "
                            f"write it again with {WRITE}")  # fmt: skip
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _samples(x: np.ndarray, where: str) -> Tensor:
    """(N, C, H, W) uint8 or (N, F) float32."""
    if x.ndim == 2 and x.dtype.kind in "biuf":
        with np.errstate(
            over="ignore"
        ):  # a value too large for float32 becomes inf, which is refused later
            return torch.from_numpy(x.astype(np.float32))
    if x.ndim == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        raise DataError(f"{where}: {x.shape} has the channels last; store x.transpose(0, 3, 1, 2)")
    if x.ndim in (3, 4) and x.dtype == np.uint8:
        return torch.from_numpy((x[:, None] if x.ndim == 3 else x).copy(order="C"))
    raise DataError(
        f"{where}: {x.shape} {x.dtype}; must be (N, F) numbers for a table, or (N, H, W) or "
        f"(N, C, H, W) uint8 for images"
    )


def _labels(
    ys: list[np.ndarray], names: np.ndarray | None, path: Path
) -> tuple[list[Tensor], tuple[str, ...]]:
    """Class numbers (N,) int64 of each part, and the names of the classes.

    Without `names` the classes are the values in y, in order.
    """
    for y in ys:
        whole = y.dtype.kind in "biuU" or (y.dtype.kind == "f" and (y == np.round(y)).all())
        if y.ndim != 1 or not whole:
            hint = "store y.argmax(1)" if y.ndim == 2 and y.shape[1] > 1 else "store y of (N,)"
            raise DataError(
                f"{path}: y is {y.shape} {y.dtype}; must be one whole number or text per sample; "
                f"{hint}"
            )
    if names is None:
        values, numbers = np.unique(np.concatenate(ys), return_inverse=True)
        names = [str(int(v)) if values.dtype.kind in "fb" else str(v) for v in values]
        ys = np.split(numbers, np.cumsum([len(y) for y in ys])[:-1])
    elif any(y.dtype.kind == "U" for y in ys):
        raise DataError(f"{path}: y is text, so it names the classes; leave `classes` out")
    if len(names) < 2:
        raise DataError(f"{path}: y has the one class {names[0]}; give two or more")
    return [torch.from_numpy(y.astype(np.int64)) for y in ys], tuple(map(str, names))
