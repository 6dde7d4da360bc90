"""CIFAR-10 and CIFAR-100, read from the archive of their binary version. Named by conf/data/.

torchvision downloads the Python version, which is pickled. A pickle can run code, so it is not read
here. The archive's digest is checked as a whole, and nothing is unpacked to disk.
"""

import hashlib
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from trainlab.data.fetch import download_file, folder
from trainlab.data.splits import FOR_IMAGES, Split, Splits, split_off_validation
from trainlab.errors import DataError

PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Archive:
    """A file of https://www.cs.toronto.edu/~kriz/ and the files in its folder `inside`."""

    file: str
    sha256: str
    inside: str
    train: tuple[str, ...]
    test: str
    names: str  # file of the class names, one per line
    labels: int  # bytes before the pixels of an image; the last is the class


CIFAR10 = Archive(
    "cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    "cifar-10-batches-bin",
    tuple(f"data_batch_{k}.bin" for k in range(1, 6)),
    "test_batch.bin",
    "batches.meta.txt",
    labels=1,
)
CIFAR100 = Archive(
    "cifar-100-binary.tar.gz",
    "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    "cifar-100-binary",
    ("train.bin",),
    "test.bin",
    "fine_label_names.txt",
    labels=2,  # the coarse class, then the fine one
)
LARGEST = 2**28  # bytes of an archive; both have about 170 million


def cifar10(
    root: str | None = None, download: bool = False, split_seed: int = 0, val_size: int = 5000
) -> Splits:
    """60,000 coloured 32x32 images of ten classes. Krizhevsky (2009).

    The 50,000 for training are split, stratified, into 50,000 - val_size and val_size; test is the
    official 10,000. Reads `root`/cifar-10-binary.tar.gz; null is $TRAINLAB_DATA or
    ~/.cache/trainlab/data. With `download` torchvision fetches it. Raises DataError for a file
    missing or damaged, ConfigError for an invalid val_size.
    """
    return _read(CIFAR10, "cifar10", folder(root), download, split_seed, val_size)


def cifar100(
    root: str | None = None, download: bool = False, split_seed: int = 0, val_size: int = 5000
) -> Splits:
    """As `cifar10`, with one hundred classes (the fine ones) of 600 images each."""
    return _read(CIFAR100, "cifar100", folder(root), download, split_seed, val_size)


def _read(
    archive: Archive, name: str, root: Path, download: bool, split_seed: int, val_size: int
) -> Splits:
    path = root / archive.file
    url = f"https://www.cs.toronto.edu/~kriz/{archive.file}"
    if download and not path.is_file():
        download_file(url, path)
    parts = _verified(path, archive, url)
    classes = parts[archive.names].decode("ascii").split()
    both = [images(parts[file], archive.labels, f"{path}: {file}") for file in archive.train]
    x, y = (torch.cat(parts) for parts in zip(*both, strict=True))
    test = Split(*images(parts[archive.test], archive.labels, f"{path}: {archive.test}"))
    facts = {"max_value": 255.0, "name": name, "keeps": FOR_IMAGES}
    return split_off_validation(Split(x, y), test, classes, split_seed, val_size, **facts)


def images(payload: bytes, labels: int, where: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Records of `labels` bytes and 3,072 pixels (C, H, W): x (N, 3, 32, 32) uint8, y (N,) int64.

    Raises DataError unless the bytes are a whole number of records.
    """
    size = labels + PIXELS
    if not payload or len(payload) % size:
        raise DataError(
            f"{where}: {len(payload)} bytes are not a whole number of records of {size}; "
            f"replace the file"
        )
    rows = torch.from_numpy(np.frombuffer(payload, np.uint8).reshape(-1, size).copy())
    return rows[:, labels:].reshape(-1, 3, 32, 32), rows[:, labels - 1].long()


def _verified(path: Path, archive: Archive, url: str) -> dict[str, bytes]:
    """File name -> content of the archive, once its SHA-256 is checked."""
    if not path.is_file():
        raise DataError(
            f"data.root = {path.parent}: has no {path.name}; put {url} there without unpacking it, "
            f"or type data.download=true; data=digits needs no files"
        )
    with open(path, "rb") as file:
        payload = file.read(LARGEST)
    digest = hashlib.sha256(payload).hexdigest()
    if digest != archive.sha256:
        raise DataError(
            f"{path}: damaged or not {url}: sha256 {digest}, expected {archive.sha256}; delete it, "
            f"then put the real one there or type data.download=true"
        )
    with tarfile.open(fileobj=io.BytesIO(payload), mode="r:gz") as files:
        names = (*archive.train, archive.test, archive.names)
        return {name: files.extractfile(f"{archive.inside}/{name}").read() for name in names}
