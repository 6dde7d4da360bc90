"""A stack that was killed or paused goes on; one that has no room is made smaller."""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from driving import RUNS, drive, names, reached

from trainlab.errors import NonFiniteError, Paused
from trainlab.observe import metrics_log
from trainlab.sweeps.execute import align_checkpoints, train_stack

STEPS = "max_steps=70"
NAMES = names(RUNS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What four runs reach that nothing befell."""
    sweep = tmp_path_factory.mktemp("whole")
    drive(sweep, RUNS, STEPS)
    return [reached(sweep / name) for name in NAMES]


def said(folder: Path, key: str):
    return json.loads((folder / "status.json").read_text())[key]


def forked(where: Path, *arguments, **more) -> int:
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 0
    try:
        out = os.open(where / "output.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        drive(*arguments, **more)
    except SystemExit as error:
        code = error.code
    finally:
        os._exit(code)


def kill_and_go_on(sweep: Path, kills: int, rng: random.Random) -> tuple[int, int]:
    """Killed so often, at random moments after the first save of all, unless the runs end before:
    how many kills landed, and how many left some runs a save ahead of others."""
    torn = landed = 0
    while True:
        left = [n for n in NAMES if not (sweep / n / "summary.json").exists()]
        for name in left:  # without a checkpoint it begins again
            if not list((sweep / name / "checkpoints").glob("ckpt-*.json")):
                shutil.rmtree(sweep / name, ignore_errors=True)
        newest = {max(align_checkpoints.steps(str(sweep / n))) for n in left}
        torn += len(newest) > 1
        jobs = [RUNS[NAMES.index(n)] for n in left]
        if landed >= kills or not left:
            drive(sweep, jobs, STEPS, folders=left) if left else None
            return landed, torn
        pid = forked(sweep, sweep, jobs, STEPS, "checkpoint.every=3", folders=left)
        wait_for_a_save(pid, sweep, left[-1])
        time.sleep(rng.uniform(0, 0.2))
        os.kill(pid, signal.SIGKILL)
        landed += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def wait_for_a_save(pid: int, sweep: Path, name: str) -> None:
    def saved() -> set[str]:
        return {path.name for path in (sweep / name / "checkpoints").glob("ckpt-*.json")}

    before = saved()
    while saved() == before:
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), (sweep / "output.txt").read_text()
        time.sleep(0.002)


def test_a_signal_stops_all_runs_of_a_stack(tmp_path, whole):
    pid = forked(tmp_path, tmp_path, RUNS, STEPS, "checkpoint.every=3")
    wait_for_a_save(pid, tmp_path, NAMES[-1])
    os.kill(pid, signal.SIGTERM)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 143, (tmp_path / "output.txt").read_text()
    assert {said(tmp_path / name, "state") for name in NAMES} == {"stopped"}
    assert len({said(tmp_path / name, "step") for name in NAMES}) == 1
    drive(tmp_path, RUNS, STEPS)
    assert [reached(tmp_path / name) for name in NAMES] == whole


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 20))]
)
def test_a_stack_that_is_killed_goes_on_to_the_same_bits(tmp_path, whole, seed):
    kill_and_go_on(tmp_path, 2, random.Random(seed))
    assert [reached(tmp_path / name) for name in NAMES] == whole


def test_a_run_that_is_one_save_ahead_goes_back_to_the_others(tmp_path, whole):
    drive(tmp_path, RUNS, STEPS, "pause_at=0.5")
    folders = [tmp_path / name for name in NAMES]
    assert [align_checkpoints.steps(str(f)) for f in folders] == [[35, 20]] * 4
    for folder in folders[1:3]:  # as if killed before they were saved
        (folder / "checkpoints" / "ckpt-00000035.json").unlink()
    told = align_checkpoints.align_checkpoints({n: str(folder) for n, folder in enumerate(folders)})
    assert told == [[0, 1, 2, 3]]
    assert [align_checkpoints.steps(str(f)) for f in folders] == [[20]] * 4
    assert not list(folders[0].glob("checkpoints/*35*"))
    drive(tmp_path, RUNS, STEPS)
    assert [reached(folder) for folder in folders] == whole


def test_where_no_step_is_common_there_are_two_stacks(tmp_path, whole, capsys):
    drive(tmp_path, RUNS[:2], STEPS, "pause_at=0.2", folders=NAMES[:2])
    drive(tmp_path, RUNS[2:], STEPS, "pause_at=0.8", folders=NAMES[2:])
    drive(tmp_path, RUNS, STEPS, "quiet=false")
    out = capsys.readouterr().out
    assert "stack 0: 2 runs" in out and "stack 1: 2 runs" in out
    for name, own in zip(NAMES, whole, strict=True):
        assert said(tmp_path / name, "state") == "finished"
        loss = reached(tmp_path / name)[1]["val"]["loss"]
        assert loss == pytest.approx(own[1]["val"]["loss"], rel=5e-3)


def test_a_damaged_checkpoint_makes_its_run_begin_where_it_can(tmp_path, whole):
    drive(tmp_path, RUNS, STEPS, "pause_at=0.5")
    weights = tmp_path / NAMES[1] / "checkpoints" / "ckpt-00000035.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    drive(tmp_path, RUNS, STEPS)
    for name, own in zip(NAMES, whole, strict=True):
        loss = reached(tmp_path / name)[1]["val"]["loss"]
        assert loss == pytest.approx(own[1]["val"]["loss"], rel=5e-3)


def test_all_pause_and_some_go_on_as_a_smaller_stack(tmp_path, whole, capsys):
    outcomes = drive(tmp_path, RUNS, STEPS, "pause_at=0.5", "quiet=false")
    assert all(isinstance(o, Paused) for o in outcomes)
    seen = capsys.readouterr()
    assert "4 runs at step 35, checkpoints saved" in seen.out
    assert seen.err == ""
    assert {(said(tmp_path / n, "state"), said(tmp_path / n, "step")) for n in NAMES} == {
        ("paused", 35)
    }
    some = [0, 3]
    drive(tmp_path, [RUNS[n] for n in some], STEPS, folders=[NAMES[n] for n in some])
    for n, name in enumerate(NAMES):
        if n not in some:
            assert said(tmp_path / name, "state") == "paused"
            continue
        loss, steps = reached(tmp_path / name)[1]["val"]["loss"], reached(tmp_path / name)[3]
        assert loss == pytest.approx(whole[n][1]["val"]["loss"], rel=5e-3)
        assert len(steps) == len(whole[n][3])


def test_a_run_killed_between_its_last_step_and_its_summary_only_ends(tmp_path, whole):
    drive(tmp_path, RUNS, STEPS)
    for name in NAMES[1:3]:
        (tmp_path / name / "summary.json").unlink()
    drive(tmp_path, RUNS[1:3], STEPS, folders=NAMES[1:3])
    assert [reached(tmp_path / name) for name in NAMES] == whole


def test_the_plan_that_is_written_is_used_again(tmp_path, capsys):
    asked = "stack.size=null", "quiet=false", "max_steps=20"
    drive(tmp_path, RUNS, *asked, "pause_at=0.5")
    assert "ms a run and step" in capsys.readouterr().out
    (plan,) = tmp_path.glob("stack-*.json")
    kept = json.loads(plan.read_text())
    assert kept["runs"] == 4
    plan.write_text(json.dumps(kept | {"size": 3}))
    drive(tmp_path, RUNS, *asked)
    assert f"3 at a time (as written in {plan})" in capsys.readouterr().out


def test_each_job_is_told_as_soon_as_it_has_ended(tmp_path):
    seen: list = []

    def ended(outcome, directory, cfg):
        opened = len(list(tmp_path.glob("*/config.yaml")))
        seen.append((directory.name, cfg.optim.lr, isinstance(outcome, dict), opened))

    jobs = [["optim.lr=0.01"], ["optim.lr=1e30"], ["optim.lr=0.02"], ["optim.lr=0.03"]]
    drive(tmp_path, jobs, "max_steps=30", "stack.size=2", "optim=sgd", "average.ema=null",
          "norm=none", ended=ended)  # fmt: skip
    folders = names(jobs)
    assert seen == [(folders[1], 1e30, False, 2), (folders[0], 0.01, True, 2),
                    (folders[2], 0.02, True, 4), (folders[3], 0.03, True, 4)]  # fmt: skip


def test_a_run_that_has_diverged_unseen_ends_alone_when_the_others_are_saved(tmp_path):
    """A checkpoint is due at step 20, the first row at step 40."""
    jobs = [["optim.lr=0.01"], ["optim.lr=1e30"], ["optim.lr=0.02"]]
    words = ("optim=sgd", "norm=none", "log.every=40", "evaluate.every=40", "average.ema=null")
    for name, more in (("saved", []), ("paused", ["pause_at=0.2", "checkpoint.every=null"])):
        outcomes = drive(tmp_path / name, jobs, "max_steps=60", *words, *more)
        assert isinstance(outcomes[1], NonFiniteError)
        kind = dict if name == "saved" else Paused
        assert isinstance(outcomes[0], kind) and isinstance(outcomes[2], kind)


def short_of_room(most: int, at: int | None, folders=()):
    """Stack(...) of more runs than `most` raises as torch does; with `at`, a later step does. Each
    of `folders` gets a file before."""
    real = train_stack.Stack

    def stack(trainers, *given):
        error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        if len(trainers) > most:
            for folder in folders:
                (folder / "old").touch()
        made = real(trainers, *given)
        if len(trainers) > most and at is None:
            raise error
        step = made.trainer.step

        def failing(x, y):
            if len(trainers) > most and made.trainer.step_count == at:
                raise error
            return step(x, y)

        made.trainer.step = failing
        return made

    return stack


@pytest.mark.parametrize("at", [None, 30])
def test_a_stack_without_room_is_halved_and_begins_again(tmp_path, capsys, monkeypatch, at):
    folders = [tmp_path / name for name in NAMES]
    monkeypatch.setattr(train_stack, "Stack", short_of_room(2, at, folders))
    outcomes = drive(tmp_path, RUNS, STEPS, "quiet=false")
    assert [outcome["steps"] for outcome in outcomes] == [70] * 4
    out = capsys.readouterr().out
    assert "stack 0: out of memory with 4 runs" in out and "2 at a time" in out
    for name in NAMES:
        rows = metrics_log.rows(tmp_path / name / "metrics.jsonl")
        steps = [row["step"] for row in rows if "train/loss" in row]
        assert steps == sorted(set(steps)) and steps[-1] == 70
        assert not (tmp_path / name / "old").exists()
        assert said(tmp_path / name, "state") == "finished"


def test_without_room_runs_that_went_on_go_on_again(tmp_path, whole, monkeypatch):
    drive(tmp_path, RUNS, STEPS, "pause_at=0.5")
    monkeypatch.setattr(train_stack, "Stack", short_of_room(2, 50))
    outcomes = drive(tmp_path, RUNS, STEPS, "checkpoint.every=null")
    assert [outcome["resumes"] for outcome in outcomes] == [1] * 4
    for name, own in zip(NAMES, whole, strict=True):
        loss = reached(tmp_path / name)[1]["val"]["loss"]
        assert loss == pytest.approx(own[1]["val"]["loss"], rel=5e-3)
