"""Digits as shipped, and MNIST read from small files of the same format."""

import gzip
import hashlib
import importlib.util
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from trainlab.data import fetch, idx, sources
from trainlab.data.idx import fashion_mnist, mnist, parse_idx
from trainlab.data.sources import digits
from trainlab.errors import ConfigError, DataError

CACHE = Path(os.environ.get("TRAINLAB_DATA") or "~/.cache/trainlab/data").expanduser()


def as_idx(values):
    return (
        bytes((0, 0, 8, values.ndim))
        + struct.pack(f">{values.ndim}I", *values.shape)
        + (values.astype(np.uint8).tobytes())
    )


def copy_of_mnist(seed):
    """Four small files: 60 training and 20 test images of 4x3 pixels, every class present."""
    random = np.random.default_rng(seed)
    files = {}
    for part, n in (("train", 60), ("t10k", 20)):
        files[f"{part}-images-idx3-ubyte"] = as_idx(random.integers(0, 256, (n, 4, 3)))
        files[f"{part}-labels-idx1-ubyte"] = as_idx((np.arange(n) + seed) % 10)
    return files


@pytest.fixture
def files(monkeypatch):
    """A small MNIST, whose digests are known beside those of a second copy."""
    first, second = copy_of_mnist(0), copy_of_mnist(1)
    monkeypatch.setattr(
        idx,
        "MNIST_DIGESTS",
        {
            name: tuple(hashlib.sha256(copy[name]).hexdigest() for copy in (first, second))
            for name in first
        },
    )
    return first


def write(folder, files, packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, payload in files.items():
        path = folder / (name + ".gz" if packed else name)
        path.write_bytes(gzip.compress(payload) if packed else payload)


def refused(*args, error=DataError, **kwargs):
    with pytest.raises(error) as caught:
        mnist(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def all_rows(data):
    """(N, pixels + 1): every sample with its label, in the order train, val, test."""
    return torch.cat(
        [torch.cat([split.x.flatten(1), split.y[:, None]], 1) for split in data.parts().values()]
    )


def test_digits():
    data = digits()
    assert [len(split) for split in data.parts().values()] == [1257, 180, 360]
    assert data.shape == (1, 8, 8) and data.classes == tuple("0123456789")
    assert data.train.x.dtype == torch.uint8 and data.train.x.max() == data.max_value == 16
    every, other = all_rows(data), all_rows(digits(split_seed=1))
    assert not torch.equal(every, other)
    for mine, theirs in zip(
        *(r.unique(dim=0, return_counts=True) for r in (every, other)), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_shipped_digits_equal_scikit_learn(tmp_path):
    pytest.importorskip("sklearn")
    script = Path(__file__).parents[2] / "scripts" / "build_digits.py"
    spec = importlib.util.spec_from_file_location("build_digits", script)
    build_digits = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build_digits)
    with np.load(sources.DIGITS, allow_pickle=False) as shipped:
        for name, values in build_digits.arrays().items():
            assert shipped[name].dtype == values.dtype
            np.testing.assert_array_equal(shipped[name], values)
    assert build_digits.build(tmp_path / "a.npz") == build_digits.build(tmp_path / "b.npz")


@pytest.mark.parametrize("folder", ["MNIST/raw", "."])
@pytest.mark.parametrize("packed", [False, True])
def test_mnist_in_every_place(files, tmp_path, folder, packed):
    write(tmp_path / folder, files, packed)
    data = mnist(str(tmp_path), val_size=10)
    assert [len(split) for split in data.parts().values()] == [50, 10, 20]
    assert data.shape == (1, 4, 3) and data.max_value == 255
    assert data.val.y.bincount().tolist() == [1] * 10
    test = np.frombuffer(files["t10k-images-idx3-ubyte"], np.uint8)[16:].reshape(20, 1, 4, 3)
    assert torch.equal(data.test.x, torch.from_numpy(test.copy()))
    assert torch.equal(data.test.y, torch.arange(20) % 10)
    assert data.digest() != mnist(str(tmp_path), val_size=10, split_seed=1).digest()


def test_mnist_default_root(files, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINLAB_DATA", str(tmp_path))
    write(tmp_path, files)
    assert len(mnist(val_size=10).train) == 50


@pytest.mark.parametrize("packed", [False, True])
def test_one_flipped_bit_is_seen(files, tmp_path, packed):
    name = "train-labels-idx1-ubyte"
    good, bad = files[name], bytearray(files[name])
    bad[20] ^= 1
    write(tmp_path, files | {name: bytes(bad)}, packed)
    message = refused(str(tmp_path), val_size=10)
    for digest in (hashlib.sha256(payload).hexdigest() for payload in (good, bad)):
        assert digest in message
    assert name in message


def test_two_copies_do_not_mix(files, tmp_path):
    name = "train-labels-idx1-ubyte"
    write(tmp_path, files | {name: copy_of_mnist(1)[name]})
    assert "two copies" in refused(str(tmp_path), val_size=10)
    write(tmp_path, copy_of_mnist(1))
    assert mnist(str(tmp_path), val_size=10).test.y[0] == 1


def test_a_damaged_archive_is_named(files, tmp_path):
    write(tmp_path, files, packed=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    for damage in (path.read_bytes()[:-20], b"no archive"):
        path.write_bytes(damage)
        assert f"{path}: damaged archive" in refused(str(tmp_path), val_size=10)


def test_an_oversized_file_is_not_read_whole(files, tmp_path, monkeypatch):
    monkeypatch.setattr(idx, "LARGEST", 1000)
    write(tmp_path, files | {"train-images-idx3-ubyte": bytes(5000)}, packed=True)
    assert hashlib.sha256(bytes(1000)).hexdigest() in refused(str(tmp_path), val_size=10)


@pytest.mark.parametrize("val_size", [0, -1, 60])
def test_val_size_leaves_something_to_train(files, tmp_path, val_size):
    write(tmp_path, files)
    assert "1 to 59" in refused(str(tmp_path), val_size=val_size, error=ConfigError)


def test_missing_files_say_what_to_do(tmp_path):
    message = refused(str(tmp_path))
    for part in (
        f"data.root = {tmp_path}",
        "train-images-idx3-ubyte",
        str(tmp_path / "MNIST/raw"),
        "data.download=true",
        "data=digits",
    ):
        assert part in message


GOOD = as_idx(np.arange(24).reshape(2, 3, 4))


@pytest.mark.parametrize(
    "payload, message",
    [
        (b"", "0 bytes that start with nothing"),
        (GOOD[:10], "10 bytes that start with 00 00 08 03"),
        (b"\0\0\x0d\x03" + GOOD[4:], "expected 00 00 08 03"),
        (as_idx(np.arange(24)), "expected 00 00 08 03 and 3 sizes"),
        (GOOD[:-1], "39 bytes, but its header says 2 x 3 x 4, which takes 40"),
        (GOOD + b"\0", "41 bytes"),
        (b"\0\0\x08\x03" + b"\xff" * 12 + GOOD[16:], "4294967295 x 4294967295 x 4294967295"),
    ],
)
def test_parse_idx_is_strict(payload, message):
    with pytest.raises(DataError, match=message):
        parse_idx(payload, 3, "some-file")


def test_parse_idx_reads_what_was_written():
    assert torch.equal(parse_idx(GOOD, 3, "f"), torch.arange(24).view(2, 3, 4).byte())
    assert parse_idx(as_idx(np.zeros((0, 3, 4))), 3, "f").shape == (0, 3, 4)


def refused_download(root):
    with pytest.raises(DataError) as caught:
        mnist(str(root), download=True)
    return str(caught.value)


def stand_in_torchvision(folder, monkeypatch, package, datasets=""):
    """A torchvision of two lines, found before the real one."""
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(package)
    (folder / "torchvision" / "datasets.py").write_text(datasets)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("torchvision", "torchvision.datasets"):
        monkeypatch.setitem(sys.modules, name, None)  # so that monkeypatch removes them afterwards
        del sys.modules[name]
    monkeypatch.syspath_prepend(folder)


def test_download_without_network(tmp_path, monkeypatch):
    stand_in_torchvision(
        tmp_path,
        monkeypatch,
        "",
        (
            "def MNIST(root, download):\n"
            "    raise RuntimeError('Error downloading\\ntrain-images')\n"
        ),
    )
    message = " ".join(refused_download(tmp_path).split())
    for part in ("Error downloading train-images", str(tmp_path / "MNIST/raw"), "data=digits"):
        assert part in message


def test_download_without_torchvision(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert "pip install torchvision" in refused_download(tmp_path)


def test_download_with_clashing_builds(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "version", lambda name: "0.29.2")
    stand_in_torchvision(
        tmp_path, monkeypatch, ("raise RuntimeError('operator torchvision::nms does not exist')\n")
    )
    message = refused_download(tmp_path)
    assert f"torch {torch.__version__} and torchvision 0.29.2" in message and "nms" in message


def test_download_fills_the_gap_and_is_checked(files, tmp_path, monkeypatch):
    write(tmp_path / "source", files)
    stand_in_torchvision(
        tmp_path,
        monkeypatch,
        "",
        (
            "import shutil\ndef MNIST(root, download):\n"
            "    shutil.copytree(root + '/source', root + '/MNIST/raw')\n"
        ),
    )
    assert len(mnist(str(tmp_path), download=True, val_size=10).train) == 50


def test_files_that_are_there_need_no_torchvision(files, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    write(tmp_path, files)
    assert len(mnist(str(tmp_path), download=True, val_size=10).train) == 50


def test_fashion_is_read_from_the_packed_files_alone(tmp_path, monkeypatch):
    files = copy_of_mnist(0)
    write(tmp_path / "FashionMNIST/raw", files, packed=True)
    packed = {path.stem: path.read_bytes() for path in tmp_path.rglob("*.gz")}
    digests = {name: (hashlib.md5(packed[name]).hexdigest(),) for name in files}
    monkeypatch.setattr(idx, "FASHION_DIGESTS", digests)
    data = fashion_mnist(str(tmp_path), val_size=10)
    assert [len(split) for split in data.parts().values()] == [50, 10, 20]
    assert data.classes[9] == "Ankle boot" and "flip" in data.keeps
    test = np.frombuffer(files["t10k-images-idx3-ubyte"], np.uint8)[16:].reshape(20, 1, 4, 3)
    assert torch.equal(data.test.x, torch.from_numpy(test.copy()))
    path = tmp_path / "FashionMNIST/raw/t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(DataError, match="t10k-labels.*damaged or not FashionMNIST: md5"):
        fashion_mnist(str(tmp_path), val_size=10)
    path.unlink()
    write(tmp_path, files)  # plain: no digest of those is known
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte.gz is neither in"):
        fashion_mnist(str(tmp_path), val_size=10)


def test_the_digests_of_fashion_are_torchvisions():
    datasets = pytest.importorskip("torchvision.datasets")
    known = {f"{name}.gz": digest for name, (digest,) in idx.FASHION_DIGESTS.items()}
    assert known == dict(datasets.FashionMNIST.resources)
    assert list(idx.FASHION_CLASSES) == datasets.FashionMNIST.classes


@pytest.mark.skipif(
    any(idx._find(CACHE, "MNIST", name) is None for name in idx.MNIST_DIGESTS),
    reason="MNIST is not in the cache folder",
)
def test_the_real_mnist():
    data = mnist()
    assert [len(split) for split in data.parts().values()] == [55000, 5000, 10000]
    assert data.shape == (1, 28, 28)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert (data.train.y.bincount() + data.val.y.bincount()).tolist() == counts
    tested = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.test.y.bincount().tolist() == tested
    pixels = sum(split.x.sum(dtype=torch.int64).item() for split in (data.train, data.val))
    assert pixels / (60000 * 784) == pytest.approx(33.318421449829934, abs=1e-12)
