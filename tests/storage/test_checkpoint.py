"""Checkpoints: what is written comes back; what is damaged is named and the one before is used."""

import os
import random

import pytest
import torch

from trainlab.errors import CheckpointError
from trainlab.storage import atomic, checkpoint, restore


def tensors(seed: int) -> dict:
    generator = torch.Generator().manual_seed(seed)
    tied = torch.randn(3, 4, generator=generator)
    return {"model.a": tied, "model.b": tied, "rng": torch.arange(5, dtype=torch.uint8)}


def save(folder, step, best_step=0):
    best = {"a": torch.full((2,), float(best_step))} if best_step else {}
    checkpoint.save(folder, step, tensors(step), best, best_step, {"lr": 0.1, "odd": 1 / 3})


def test_what_was_saved_comes_back(tmp_path):
    save(tmp_path, 7, best_step=5)
    found, wrong = restore.newest(tmp_path)
    assert (found.step, found.facts["odd"], found.facts["best_step"], wrong) == (7, 1 / 3, 5, [])
    for name, tensor in tensors(7).items():
        assert torch.equal(found.tensors[name], tensor)
    assert found.best["a"].tolist() == [5.0, 5.0]


def test_two_are_kept_beside_the_best(tmp_path):
    for step, best in ((1, 1), (2, 1), (3, 1), (4, 4), (5, 4)):
        save(tmp_path, step, best)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "best-00000004.safetensors",
        "ckpt-00000004.json",
        "ckpt-00000004.safetensors",
        "ckpt-00000005.json",
        "ckpt-00000005.safetensors",
    ]


def test_a_damaged_manifest_is_none_of_the_two_that_are_kept(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    (tmp_path / "ckpt-00000003.json").write_text("cut")
    save(tmp_path, 4)
    assert [path.name for path in checkpoint.manifests(tmp_path)] == [
        "ckpt-00000004.json",
        "ckpt-00000002.json",
    ]


def test_best_weights_that_did_not_change_are_written_once(tmp_path, monkeypatch):
    save(tmp_path, 1, 1)
    written = []
    write = atomic.write
    monkeypatch.setattr(
        atomic, "write", lambda path, data: written.append(path.name) or write(path, data)
    )
    save(tmp_path, 2, 1)
    assert written == ["ckpt-00000002.safetensors", "ckpt-00000002.json"]  # the manifest last


def test_other_tensors_of_the_same_step_are_written_anew(tmp_path):
    """As after a resume with another lr: the step has been saved once, the best weights too."""
    save(tmp_path, 1, 1)
    other = {"a": torch.full((2,), 9.0)}
    checkpoint.save(tmp_path, 1, tensors(5), other, 1, {"lr": 0.2, "odd": 1})
    found, wrong = restore.newest(tmp_path)
    assert (found.facts["lr"], wrong) == (0.2, [])
    assert torch.equal(found.best["a"], other["a"])
    assert all(torch.equal(found.tensors[name], t) for name, t in tensors(5).items())


def test_none_is_no_error_and_all_damaged_is(tmp_path):
    assert restore.newest(tmp_path) == (None, [])
    save(tmp_path, 1)
    (tmp_path / "ckpt-00000001.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of its checkpoints can be read"):
        restore.newest(tmp_path)


def damage(path, rng):
    data = bytearray(path.read_bytes())
    kind = rng.choice(["flip", "cut", "zero"])
    place = rng.randrange(len(data))
    if kind == "flip":
        data[place] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[place:]
    elif data[place : place + 512].strip(b"\0"):
        data[place : place + 512] = bytes(len(data[place : place + 512]))
    else:
        data += b"\0"
    path.write_bytes(data)


@pytest.mark.parametrize("seed", range(100))
def test_a_damaged_newest_is_named_and_the_one_before_is_used(tmp_path, seed):
    rng = random.Random(seed)
    save(tmp_path, 1, 1)
    save(tmp_path, 2, 2)
    doomed = rng.choice(sorted(p for p in tmp_path.iterdir() if "2" in p.name))
    damage(doomed, rng)
    found, wrong = restore.newest(tmp_path)
    assert found.step == 1
    assert len(wrong) == 1
    assert doomed.name in wrong[0]


def test_a_newer_format_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 99)
    save(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format 99, this trainlab reads 3"):
        restore.newest(tmp_path)


def test_a_kill_between_any_two_system_calls_leaves_a_whole_checkpoint(tmp_path, monkeypatch):
    """Every crash point of a save: the newest whole checkpoint is the old one or the new one."""

    class Cut(BaseException):
        pass

    names = ("fsync", "replace", "unlink")
    for stop_at in range(100):
        folder = tmp_path / str(stop_at)
        folder.mkdir()
        for step in (1, 2):
            save(folder, step, step)
        left = [stop_at]

        def cutting(name, left=left):
            real = getattr(atomic, name)

            def call(*args):
                if left[0] == 0:
                    raise Cut
                left[0] -= 1
                return real(*args)

            return call

        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(atomic, name, cutting(name))
            try:
                save(folder, 3, 3)
            except Cut:
                pass
            else:
                assert stop_at > 8  # three files of three calls each, then the removals
                break
        found, _ = restore.newest(folder)
        assert found.step in (2, 3)
        for name, tensor in tensors(found.step).items():
            assert torch.equal(found.tensors[name], tensor)
    else:
        pytest.fail("a save takes more system calls than expected")


@pytest.mark.parametrize("done", range(6))
def test_a_manifest_never_outlives_the_files_it_names(tmp_path, monkeypatch, done):
    """Two checkpoints of three files each are to go, and a kill comes after `done` removals."""

    class Cut(BaseException):
        pass

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "remove_old", lambda folder: None)
        for step in (1, 2, 3, 4):
            save(tmp_path, step, step)
    before = set(tmp_path.iterdir())
    assert len(before) == 12
    removed = []

    def cutting(path):
        if len(removed) == done:
            raise Cut
        removed.append(path)
        os.unlink(path)

    monkeypatch.setattr(atomic, "unlink", cutting)
    with pytest.raises(Cut):
        checkpoint.remove_old(tmp_path)
    assert before - set(tmp_path.iterdir()) == set(removed)
    for path in checkpoint.manifests(tmp_path):
        named = checkpoint.manifest(path)["files"]
        assert all((tmp_path / name).exists() for name in named), path.name
