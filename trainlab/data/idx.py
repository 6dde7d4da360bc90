"""IDX files: MNIST. Named by conf/data/."""

import gzip
import hashlib
import math
import os
import struct
import zlib
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainlab.data.splits import Split, Splits, stratified
from trainlab.errors import ConfigError, DataError

# sha256 of the unpacked IDX files in the copies of MNIST that are in use: first as LeCun published
# them and torchvision downloads them; then one with the same images in another order. A set must be
# of one copy throughout: images of one with labels of the other would be noise.
MNIST_DIGESTS = {
    "train-images-idx3-ubyte": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "6705eff8e49fb8f823af92addac64fe87d5ddd6adbec30534755ed0f6fd2f407",
    ),
    "train-labels-idx1-ubyte": (
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "fffa927b06d57127f1f73b3dab411dc4688d2888bbd4b7ccfeae103413ba74c0",
    ),
    "t10k-images-idx3-ubyte": (
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "f7b4685ba2c57762ba97db37564e4d2fd532da4678a25e77073987c29691328a",
    ),
    "t10k-labels-idx1-ubyte": (
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        "d29f8495dbfcd9baaee177306d6ed207fb661b8e67d588f8b7f8feb7d83f5472",
    ),
}
LARGEST = 64 * 2**20  # bytes of one unpacked file; MNIST's largest has 47,040,016


def mnist(
    root: str | None = None, download: bool = False, split_seed: int = 0, val_size: int = 5000
) -> Splits:
    """70,000 28x28 digits, values 0 to 255. LeCun, Bottou, Bengio, Haffner (1998).

    The 60,000 for training are split, stratified, into 60,000 - val_size and val_size; test is
    the official 10,000. Reads `root`/MNIST/raw or `root`, plain or .gz; null is $TRAINLAB_DATA or
    ~/.cache/trainlab/data. With `download` torchvision fetches missing files.
    Raises DataError for files missing, damaged or unknown, ConfigError for a wrong val_size.
    """
    where = Path(root or os.environ.get("TRAINLAB_DATA") or "~/.cache/trainlab/data").expanduser()
    if download and any(_find(where, name) is None for name in MNIST_DIGESTS):
        _download(where)
    files = _verified(where)
    x, y, test_x, test_y = (
        parse_idx(payload, 3 if "idx3" in path.name else 1, path) for path, payload in files
    )
    both, test = Split(x[:, None], y.long()), Split(test_x[:, None], test_y.long())
    if not 0 < val_size < len(both):
        raise ConfigError(
            f"data.val_size = {val_size}: must be 1 to {len(both) - 1}; type data.val_size=5000"
        )
    train, val, _ = stratified(both.y, (len(both) - val_size, val_size, 0), split_seed)
    names = tuple("0123456789")
    return Splits(both.take(train), both.take(val), test, names, max_value=255.0, name="mnist")


def parse_idx(payload: bytes, dims: int, path: Path | str) -> Tensor:
    """An IDX file of bytes as a uint8 tensor: 0 0 8 dims, then dims big-endian sizes, then data.

    Raises DataError unless the header accounts for every byte; nothing is allocated before that.
    """
    magic, start = bytes((0, 0, 8, dims)), 4 + 4 * dims
    if payload[:4] != magic or len(payload) < start:
        raise DataError(
            f"{path}: {len(payload)} bytes that start with {payload[:4].hex(' ') or 'nothing'}; "
            f"expected {magic.hex(' ')} and {dims} sizes: replace the file"
        )
    shape = struct.unpack(f">{dims}I", payload[4:start])
    if len(payload) != start + math.prod(shape):
        raise DataError(
            f"{path}: {len(payload)} bytes, but its header says {' x '.join(map(str, shape))}, "
            f"which takes {start + math.prod(shape)}: replace the file"
        )
    return torch.from_numpy(np.frombuffer(payload, np.uint8)[start:].reshape(shape).copy())


def _find(root: Path, name: str) -> Path | None:
    places = [
        folder / (name + end) for folder in (root / "MNIST" / "raw", root) for end in ("", ".gz")
    ]
    return next((path for path in places if path.is_file()), None)


def _verified(root: Path) -> list[tuple[Path, bytes]]:
    """The four files, unpacked, in the order of MNIST_DIGESTS and known to be of one copy."""
    files, copies = [], set()
    for name, expected in MNIST_DIGESTS.items():
        path = _find(root, name)
        if path is None:
            raise DataError(
                f"data.root = {root}: {name} is neither in {root / 'MNIST' / 'raw'} nor in {root}; "
                f"put MNIST's four files there, plain or .gz, or type data.download=true; "
                f"data=digits needs no files"
            )
        payload = _unpacked(path)
        seen = hashlib.sha256(payload).hexdigest()
        if seen not in expected:
            raise DataError(
                f"{path}: damaged or not MNIST: sha256 {seen}, expected {' or '.join(expected)}; "
                f"delete it, then put the real one there or type data.download=true"
            )
        files.append((path, payload))
        copies.add(expected.index(seen))
    if len(copies) > 1:
        raise DataError(
            f"data.root = {root}: files of two copies of MNIST in different order, so labels would "
            f"not belong to their images; take all four files from one copy"
        )
    return files


def _unpacked(path: Path) -> bytes:
    """What is in the file; of an oversized one only the start, which no digest will match."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            return file.read(LARGEST)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged archive ({error}); delete and refetch it") from None


def _download(root: Path) -> None:
    try:
        from torchvision.datasets import MNIST  # slow to import and may clash with torch
    except ModuleNotFoundError:
        raise DataError(
            f"data.download = true: needs torchvision, which is not installed; pip install "
            f"torchvision, or put MNIST's four files into {root}; data=digits needs no files"
        ) from None
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        raise DataError(
            f"data.download = true: torch {torch.__version__} and torchvision "
            f"{version('torchvision')} are builds that do not fit together ({error}); install both "
            f"from one index, or put MNIST's four files into {root}; data=digits needs no files"
        ) from None
    try:
        MNIST(str(root), download=True)
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"data.download = true: nothing fetched ({error}); looked in {root / 'MNIST' / 'raw'} "
            f"and {root}: MNIST's files go there, plain or .gz; data=digits needs no files"
        ) from None
