"""A file of the user's own: what is read, and each way in which it can be wrong."""

import io
import zipfile

import numpy as np
import pytest
import torch

from trainlab.data import npz as module
from trainlab.data.npz import npz
from trainlab.errors import ConfigError, DataError

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(50, 3)), np.arange(50) % 4
IMAGES = RANDOM.integers(0, 256, (50, 3, 5, 4), dtype=np.uint8)


def saved(path, **arrays):
    np.savez_compressed(path / "data.npz", **arrays)
    return str(path / "data.npz")


def rows(data):
    parts = data.parts().values()
    x = torch.cat([part.x.flatten(1).double() for part in parts])
    return torch.cat([x, torch.cat([part.y for part in parts])[:, None].double()], 1)


@pytest.mark.parametrize("x", [X, X.astype(np.float32), (X * 10).astype(int), np.asfortranarray(X)])
def test_a_table_is_dealt_out(tmp_path, x):
    data = npz(saved(tmp_path, x=x, y=Y))
    assert [len(part) for part in data.parts().values()] == [35, 5, 10]
    assert data.shape == (3,) and data.classes == ("0", "1", "2", "3")
    assert data.keeps == ("noise", "mixup")
    expected = np.concatenate([x.astype(np.float32), Y[:, None]], 1).astype(np.float64)
    seen = rows(data).numpy()
    np.testing.assert_array_equal(seen[np.lexsort(seen.T)], expected[np.lexsort(expected.T)])


def test_given_splits_stay_in_order(tmp_path):
    parts = {f"x_{part}": IMAGES[k : k + 9] for k, part in enumerate(("train", "val", "test"))}
    parts |= {f"y_{part}": Y[k : k + 9] for k, part in enumerate(("train", "val", "test"))}
    data = npz(saved(tmp_path, **parts))
    assert data.shape == (3, 5, 4) and data.max_value == 255 and "flip" in data.keeps
    for k, part in enumerate(data.parts().values()):
        assert torch.equal(part.x, torch.from_numpy(IMAGES[k : k + 9].copy()))
        assert part.y.tolist() == Y[k : k + 9].tolist()


def test_without_validation_a_tenth_of_train_is(tmp_path):
    path = saved(tmp_path, x_train=IMAGES, y_train=Y, x_test=IMAGES[:8], y_test=Y[:8])
    assert [len(part) for part in npz(path).parts().values()] == [45, 5, 8]
    assert len(npz(path, val_size=20).val) == 20
    with pytest.raises(ConfigError, match="data.val_size = 50: must be 1 to 49"):
        npz(path, val_size=50)


def test_labels_may_be_text_or_any_numbers_or_named(tmp_path):
    words = np.array(["cat", "ant", "dog", "bee"])
    assert npz(saved(tmp_path, x=X, y=words[Y])).classes == ("ant", "bee", "cat", "dog")
    assert npz(saved(tmp_path, x=X, y=Y * 10.0 - 5)).classes == ("-5", "5", "15", "25")
    assert npz(saved(tmp_path, x=X, y=Y > 1)).classes == ("0", "1")
    named = npz(saved(tmp_path, x=X, y=Y, classes=words, columns=np.array(["a", "b", "c"])))
    assert named.classes == ("cat", "ant", "dog", "bee") and named.columns == ("a", "b", "c")


def test_grey_images(tmp_path):
    data = npz(saved(tmp_path, x=IMAGES[:, 0], y=Y), max_value=100.0)
    assert data.shape == (1, 5, 4) and data.max_value == 100


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"x": X}, "has no array y .it has x.; write it as np.savez"),
        ({}, "has no array x .it has nothing."),
        ({"x_train": X, "y_train": Y}, "has no array x_test"),
        ({"x_train": X, "x_test": X, "y_test": Y}, "has no array y_train"),
        ({"x_train": X, "y_train": Y, "x_test": X, "y_test": Y, "x_val": X}, "no array y_val"),
        ({"x": X[:40], "y": Y}, "40 samples but 50 labels"),
        ({"x": X[:, 0], "y": Y}, "x: .50,. float64; must be .N, F. numbers"),
        ({"x": X.astype(complex), "y": Y}, "complex128"),
        ({"x": IMAGES / 255, "y": Y}, "float64; must be .* uint8 for images"),
        ({"x": IMAGES.transpose(0, 2, 3, 1), "y": Y}, "channels last; store x.transpose"),
        ({"x": X, "y": np.eye(4)[Y]}, "store y.argmax"),
        ({"x": X, "y": Y + 0.5}, "one whole number or text per sample"),
        ({"x": X, "y": np.where(Y == 0, np.nan, Y)}, "one whole number or text per sample"),
        ({"x": X, "y": Y * 0}, "the one class 0"),
        ({"x": np.where(X > 2, np.inf, X), "y": Y}, "feature . is inf"),
        ({"x": X * 1e300, "y": Y}, "is -?inf"),
        ({"x": X, "y": Y, "classes": np.array(["a", "b"])}, "labels must be 0 to 1"),
        ({"x": X, "y": Y, "columns": np.array(["a", "b"])}, "columns names 2 of 3 features"),
        ({"x": X, "y": np.array(["a", "b"])[Y % 2], "classes": np.array(["a", "b"])}, "is text"),
        ({"x": X[:4], "y": Y[:4]}, "too few"),
        ({"x": X.astype(object), "y": Y}, "x: holds Python objects, which are pickled"),
    ],
)
def test_a_wrong_array_is_told(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message) as caught:
        npz(saved(tmp_path, **arrays))
    assert "\n" not in str(caught.value)


def zipped(path, x, y=None):
    """A zip whose x.npy holds just these bytes."""
    good = io.BytesIO()
    np.save(good, Y)
    with zipfile.ZipFile(path / "data.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", x)
        file.writestr("y.npy", good.getvalue())
    return str(path / "data.npz")


def npy(x):
    stream = io.BytesIO()
    np.save(stream, x)
    return stream.getvalue()


def test_a_header_that_lies_is_told_before_memory_is_taken(tmp_path):
    honest = npy(X)
    huge = honest.replace(b"(50, 3)", b"(1e6,3)").replace(b"(1e6,3)", b"(9**9,)")
    for payload in (
        honest.replace(b"(50, 3)", b"(99999999999, 3)").replace(b" " * 11, b"", 1),
        honest.replace(b"(50, 3)", b"(49, 3)"),
        honest[:-1],
        huge,
        b"no array",
        b"",
    ):
        with pytest.raises(DataError, match="x: (its size does not match its header|not an array)"):
            npz(zipped(tmp_path, payload))


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 1000)
    with pytest.raises(DataError, match="bytes unpacked, at most 1000"):
        npz(saved(tmp_path, x=np.zeros((500, 3)), y=np.arange(500) % 2))


def test_damaged_or_missing_files(tmp_path):
    with pytest.raises(DataError, match="data.root = null: data=npz needs a file"):
        npz()
    with pytest.raises(DataError, match="no.npz: not a whole .npz file .No such file"):
        npz(str(tmp_path / "no.npz"))
    with pytest.raises(DataError, match="not a whole .npz file"):
        npz(str(tmp_path))
    path = tmp_path / "data.npz"
    saved(tmp_path, x=IMAGES, y=Y)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a whole .npz file"):
        npz(str(path))
    data = bytearray(whole)
    data[1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="not a whole .npz file"):
        npz(str(path))
