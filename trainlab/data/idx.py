"""IDX files: MNIST and Fashion-MNIST. Named by conf/data/."""

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainlab.data.fetch import download_dataset, folder
from trainlab.data.splits import FOR_IMAGES, NO_FLIP, Split, Splits, split_off_validation
from trainlab.errors import DataError

# SHA-256 of the unpacked IDX files of the two copies of MNIST in use: the one LeCun published and
# torchvision downloads, and one with the same images in another order. All four files must be of
# one copy: images of one with labels of the other would have random labels.
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
# MD5 of the .gz files of Fashion-MNIST, the digests torchvision checks
FASHION_DIGESTS = {
    "train-images-idx3-ubyte": ("8d4fb7e6c68d591d4c3dfef9ec88bf0d",),
    "train-labels-idx1-ubyte": ("25c81989df183df01b3e8a0aad5dffbe",),
    "t10k-images-idx3-ubyte": ("bef4ecab320f06d8554ea6380940ec79",),
    "t10k-labels-idx1-ubyte": ("bb300cfdad3c16e7a12a480ee83cd310",),
}
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
    "Ankle boot",
)  # fmt: skip
LARGEST = 64 * 2**20  # bytes of one unpacked file; MNIST's largest has 47,040,016


def mnist(
    root: str | None = None, download: bool = False, split_seed: int = 0, val_size: int = 5000
) -> Splits:
    """70,000 28x28 digits, values 0 to 255. LeCun, Bottou, Bengio, Haffner (1998).

    The 60,000 for training are split, stratified, into 60,000 - val_size and val_size; test is
    the official 10,000. Reads `root`/MNIST/raw or `root`, plain or .gz; null is $TRAINLAB_DATA or
    ~/.cache/trainlab/data. With `download` torchvision fetches missing files.
    Raises DataError for files missing, damaged or unknown, ConfigError for an invalid val_size.
    """
    where = folder(root)
    if download and any(_find(where, "MNIST", name) is None for name in MNIST_DIGESTS):
        download_dataset("MNIST", where)
    files = _verified(where, "MNIST", MNIST_DIGESTS)
    facts = {"max_value": 255.0, "name": "mnist", "keeps": NO_FLIP}
    return _splits(files, tuple("0123456789"), split_seed, val_size, facts)


def fashion_mnist(
    root: str | None = None, download: bool = False, split_seed: int = 0, val_size: int = 5000
) -> Splits:
    """70,000 28x28 pictures of clothes, values 0 to 255. Xiao, Rasul, Vollgraf (2017).

    As `mnist`, but read from the four .gz files only, in `root`/FashionMNIST/raw or `root`: the
    known digests are those of the .gz files.
    """
    where = folder(root)
    if download and any(_find(where, "FashionMNIST", n, (".gz",)) is None for n in FASHION_DIGESTS):
        download_dataset("FashionMNIST", where)
    files = _verified(where, "FashionMNIST", FASHION_DIGESTS, packed=True)
    facts = {"max_value": 255.0, "name": "fashion_mnist", "keeps": FOR_IMAGES}
    return _splits(files, FASHION_CLASSES, split_seed, val_size, facts)


def _splits(
    files: list[tuple[Path, bytes]],
    classes: Sequence[str],
    split_seed: int,
    val_size: int,
    facts: dict[str, Any],
) -> Splits:
    x, y, test_x, test_y = (
        parse_idx(payload, 3 if "idx3" in path.name else 1, path) for path, payload in files
    )
    both, test = Split(x[:, None], y.long()), Split(test_x[:, None], test_y.long())
    return split_off_validation(both, test, classes, split_seed, val_size, **facts)


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


def _find(root: Path, name: str, file: str, ends: Sequence[str] = ("", ".gz")) -> Path | None:
    places = [place / (file + end) for place in (root / name / "raw", root) for end in ends]
    return next((path for path in places if path.is_file()), None)


def _verified(
    root: Path, name: str, digests: dict[str, tuple[str, ...]], packed: bool = False
) -> list[tuple[Path, bytes]]:
    """The four files, unpacked, in the order of `digests`, checked to be of one copy.

    digests: file -> SHA-256 of its content in each copy, or with `packed` the MD5 of its .gz.
    """
    files, copies = [], set()
    kind = "its four .gz files" if packed else f"{name}'s four files"
    for file, expected in digests.items():
        path = _find(root, name, file, (".gz",) if packed else ("", ".gz"))
        if path is None:
            raise DataError(
                f"data.root = {root}: {file}{'.gz' if packed else ''} is neither in "
                f"{root / name / 'raw'} nor in {root}; put {kind} there"
                f"{'' if packed else ', plain or .gz'}, or type data.download=true; "
                f"data=digits needs no files"
            )
        payload = path.read_bytes()[:LARGEST] if packed else _unpacked(path)
        digest = (_md5 if packed else hashlib.sha256)(payload).hexdigest()
        if digest not in expected:
            raise DataError(
                f"{path}: damaged or not {name}: {'md5' if packed else 'sha256'} {digest}, not "
                f"{' or '.join(expected)}; delete it, then put the real one there or type "
                f"data.download=true"
            )
        files.append((path, gzip.decompress(payload) if packed else payload))
        copies.add(expected.index(digest))
    if len(copies) > 1:
        raise DataError(
            f"data.root = {root}: files from two copies of {name} with different orders, so labels "
            f"would not match their images; take all four files from one copy"
        )
    return files


def _md5(payload: bytes) -> Any:
    return hashlib.md5(payload, usedforsecurity=False)


def _unpacked(path: Path) -> bytes:
    """The file's content, cut at LARGEST; no digest matches one that is larger."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            return file.read(LARGEST)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path}: damaged archive ({error}); delete it and download it again"
        ) from None
