"""CIFAR read from small archives of the same format, whose digests are put in place."""

import hashlib
import io
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from trainlab.data import cifar, fetch
from trainlab.data.cifar import CIFAR10, CIFAR100, cifar10, cifar100, images
from trainlab.errors import ConfigError, DataError


def records(n, labels, classes, seed):
    """n records as bytes, their pixels (n, 3, 32, 32) and their classes (n,)."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
    y = np.arange(n) % classes
    head = np.stack([y // 5] * (labels - 1) + [y], 1).astype(np.uint8)
    return np.concatenate([head, pixels.reshape(n, -1)], 1).tobytes(), pixels, y


def build(folder, archive, monkeypatch, classes, leave_out=()):
    """A small archive and the pixels and classes of its files, known by its own digest."""
    n, contents, truth = 2 * classes, {}, {}
    for seed, file in enumerate((*archive.train, archive.test)):
        contents[file], *truth[file] = records(n, archive.labels, classes, seed)
    names = "\n".join(f"class_{k}" for k in range(classes)) + "\n\n"  # batches.meta.txt ends so
    contents[archive.names] = names.encode()
    path = folder / archive.file
    with tarfile.open(path, "w:gz") as file:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{archive.inside}/{name}")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    constant = "CIFAR10" if archive is CIFAR10 else "CIFAR100"
    monkeypatch.setattr(cifar, constant, replace(archive, sha256=digest))
    return truth


@pytest.mark.parametrize(
    "word, archive, classes", [(cifar10, CIFAR10, 10), (cifar100, CIFAR100, 100)]
)
def test_reading(tmp_path, monkeypatch, word, archive, classes):
    truth = build(tmp_path, archive, monkeypatch, classes)
    data = word(str(tmp_path), val_size=classes)
    pixels, y = truth[archive.test]
    assert torch.equal(data.test.x, torch.from_numpy(pixels))
    assert torch.equal(data.test.y, torch.from_numpy(y))
    assert data.shape == (3, 32, 32) and data.classes[-1] == f"class_{classes - 1}"
    assert len(data.val) == classes and len(data.train) == (2 * len(archive.train) - 1) * classes
    expected = np.concatenate([truth[file][0] for file in archive.train])
    both = torch.cat([data.train.x, data.val.x])
    order = both.flatten(1).long().sum(1).argsort()
    theirs = torch.from_numpy(expected)
    assert torch.equal(both[order], theirs[theirs.flatten(1).long().sum(1).argsort()])
    labels = torch.from_numpy(np.concatenate([truth[file][1] for file in archive.train]))
    for x, label in zip(data.val.x, data.val.y, strict=True):  # every image keeps its label
        assert labels[(theirs == x).flatten(1).all(1)].tolist() == [label]


def test_one_flipped_bit_is_seen_before_anything_is_read(tmp_path, monkeypatch):
    build(tmp_path, CIFAR10, monkeypatch, 10)
    path = tmp_path / CIFAR10.file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr(tarfile, "open", None)
    with pytest.raises(DataError, match="damaged or not https://www.cs.toronto.edu.*sha256"):
        cifar10(str(tmp_path), val_size=10)


def test_a_missing_archive_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match="has no cifar-100-binary.tar.gz.*data.download=true"):
        cifar100(str(tmp_path))


def test_val_size(tmp_path, monkeypatch):
    build(tmp_path, CIFAR10, monkeypatch, 10)
    with pytest.raises(ConfigError, match="data.val_size = 100: must be 1 to 99"):
        cifar10(str(tmp_path), val_size=100)


@pytest.mark.parametrize("size", [0, 1, 3072, 3074])
def test_no_whole_number_of_records(size):
    with pytest.raises(
        DataError, match=f"f: {size} bytes are not a whole number of records of 3073"
    ):
        images(bytes(size), 1, "f")


def test_download_goes_through_torchvision_and_is_checked(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    build(source, CIFAR10, monkeypatch, 10)
    calls = []

    class Datasets:
        class utils:
            @staticmethod
            def download_url(url, root, name):
                calls.append(url)
                (tmp_path / name).write_bytes((source / name).read_bytes())

    monkeypatch.setattr(fetch, "_torchvision", lambda instead: Datasets)
    assert len(cifar10(str(tmp_path), download=True, val_size=10).test) == 20
    cifar10(str(tmp_path), download=True, val_size=10)
    assert calls == ["https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"]


def test_download_without_network(tmp_path, monkeypatch):
    class Datasets:
        class utils:
            @staticmethod
            def download_url(url, root, name):
                raise OSError("no route")

    monkeypatch.setattr(fetch, "_torchvision", lambda instead: Datasets)
    with pytest.raises(
        DataError, match="the download failed .no route.; cifar-10-binary.tar.gz from"
    ):
        cifar10(str(tmp_path), download=True)
