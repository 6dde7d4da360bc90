"""A durable write is whole or absent, whichever of its system calls fails, and the order of the
calls is the safe one."""

import errno
import os

import pytest

from trainlab.errors import MachineError
from trainlab.storage import atomic


def test_order_is_flush_rename_flush_folder(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(atomic, "fsync", lambda fd: calls.append("fsync") or os.fsync(fd))
    monkeypatch.setattr(atomic, "replace", lambda a, b: calls.append("rename") or os.replace(a, b))
    atomic.write(tmp_path / "file", b"new")
    assert calls == ["fsync", "rename", "fsync"]
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_call_leaves_the_old_bytes_and_names_the_path(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    atomic.write(path, b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic, call, full)
    with pytest.raises(
        MachineError, match=r"file: cannot write \(No space left on device, ENOSPC\)"
    ):
        atomic.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic.write_json(tmp_path / "x.json", {"loss": float("nan")})


def test_what_is_gone_already_does_not_keep_the_rest(tmp_path):
    """As where a second process, or a person, removed a file in between."""
    here = tmp_path / "here"
    here.write_bytes(b"old")
    atomic.remove([tmp_path / "gone", here])
    assert list(tmp_path.iterdir()) == []
