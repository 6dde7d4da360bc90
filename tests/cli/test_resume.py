"""Signals, folders, and going on: what a person sees when a run is stopped and taken up again."""

import errno
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from forked import finish, start

from trainlab.__main__ import main
from trainlab.storage import restore, run_folder

RECIPE = ["preflight=none", "probe=none", "model.widths=[16]", "epochs=1000", "log.every=10"]


def told(where: Path) -> str:
    return (where / "output.txt").read_text()


def stop_after(where: Path, number: signal.Signals, *arguments: str) -> int:
    """Start a run, wait until it trains, send a signal; the exit code."""
    pid = start([*RECIPE, f"hydra.run.dir={where}/run", *arguments], where)
    rows, begun = where / "run" / "metrics.jsonl", time.monotonic()
    while not (rows.exists() and rows.stat().st_size > 2000):
        assert time.monotonic() - begun < 30, told(where)
        time.sleep(0.01)
    os.kill(pid, number)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 75), (signal.SIGHUP, 75)],
)
def test_a_signal_stops_at_the_next_step_with_a_checkpoint_and_one_line(tmp_path, number, code):
    assert stop_after(tmp_path, number) == code
    found, _ = restore.newest(tmp_path / "run" / "checkpoints")
    last = told(tmp_path).strip().splitlines()[-1]
    assert last.startswith(
        f"trainlab: stopped by {number.name} at step {found.step}, checkpoint saved"
    )
    assert f"resume='{tmp_path}/run'" in last
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "stopped"
    assert "Traceback" not in told(tmp_path)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    where = tmp_path_factory.mktemp("stopped")
    stop_after(where, signal.SIGTERM)
    return where / "run"


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("optim.lr=0.2", "optim.lr = 0.2: the checkpoint was made with 0.05"),
        (
            "activation=elu",
            "activation._target_ = torch.nn.ELU: the checkpoint was made with torch.nn.ReLU",
        ),
        ("data.split_seed=1", "data.split_seed = 1: the checkpoint was made with 0"),
        ("seed=3", "seed = 3: the checkpoint was made with 0"),
    ],
)
def test_another_recipe_is_refused(stopped, tmp_path, typed, words):
    code, _ = finish([f"resume={stopped}", typed], tmp_path)
    assert code == 4
    assert words in told(tmp_path)
    assert "resume_allow=[" in told(tmp_path)


def test_a_change_that_is_allowed_goes_on(stopped, tmp_path):
    step = restore.newest(stopped / "checkpoints")[0].step
    typed = [
        f"resume={stopped}",
        "optim.lr=0.01",
        "resume_allow=[optim.lr]",
        f"max_steps={step + 5}",
    ]
    code, _ = finish(typed, tmp_path)
    assert code == 0, told(tmp_path)
    assert f"resumed {stopped} at step {step} of {step + 5}" in told(tmp_path)
    summary = json.loads((stopped / "summary.json").read_text())
    assert (summary["steps"], summary["resumes"]) == (step + 5, 1)


def test_no_valid_checkpoint_never_starts_over(stopped, tmp_path):
    import shutil

    shutil.copytree(stopped, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("ckpt*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    code, _ = finish([f"resume={tmp_path}/run"], tmp_path)
    assert code == 4
    assert "none of its checkpoints can be read" in told(tmp_path)


def test_resume_of_nothing(tmp_path):
    code, _ = finish([f"resume={tmp_path}/nope"], tmp_path)
    assert code == 4
    assert "no such run" in told(tmp_path)


def test_one_folder_one_process(tmp_path):
    pid = start([*RECIPE, f"hydra.run.dir={tmp_path}/run"], tmp_path)
    rows, begun = tmp_path / "run" / "metrics.jsonl", time.monotonic()
    while not rows.exists():
        assert time.monotonic() - begun < 30
        time.sleep(0.01)
    (tmp_path / "second").mkdir()
    try:
        code, _ = finish([f"resume={tmp_path}/run"], tmp_path / "second")
        assert code == 5
        assert f"in use by pid {pid}" in told(tmp_path / "second")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_eight_starts_in_one_second_make_eight_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed = [*RECIPE, "max_steps=1", "quiet=true"]
    pids = [start(typed, tmp_path) for _ in range(8)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert codes == [0] * 8, told(tmp_path)
    assert len(list(tmp_path.glob("runs/*/summary.json"))) == 8


def test_auto_takes_the_newest_unfinished_run_of_the_same_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other, mine = tmp_path / "runs" / "other", tmp_path / "runs" / "mine"
    for folder, lr in ((mine, "0.05"), (other, "0.02")):
        where = tmp_path / folder.name
        where.mkdir()
        stop_after(where, signal.SIGTERM, f"optim.lr={lr}")
        folder.parent.mkdir(exist_ok=True)
        (where / "run").rename(folder)
    step = restore.newest(mine / "checkpoints")[0].step
    code, _ = finish([*RECIPE, "optim.lr=0.05", "resume=auto", f"max_steps={step + 3}"], tmp_path)
    assert code == 0, told(tmp_path)
    assert json.loads((mine / "summary.json").read_text())["steps"] == step + 3


def test_a_refused_resume_leaves_the_run_as_it_was(tmp_path):
    """Neither status nor saved overrides: the next resume=DIR goes on with the run's own recipe."""
    stop_after(tmp_path, signal.SIGTERM)
    run = tmp_path / "run"
    status, config = (run / "status.json").read_bytes(), (run / "config.yaml").read_bytes()
    for typed in (["optim.lr=0.2"], ["task=evaluate", "data.split_seed=3"]):
        assert finish([f"resume={run}", *typed], tmp_path)[0] == 4
    assert finish([f"resume={run}", "task=evaluate"], tmp_path)[0] == 0, told(tmp_path)
    assert (run / "status.json").read_bytes() == status
    assert (run / "config.yaml").read_bytes() == config
    assert not list(run.glob(".hydra/resume-*"))
    step = restore.newest(run / "checkpoints")[0].step
    assert finish([f"resume={run}", f"max_steps={step + 1}"], tmp_path)[0] == 0, told(tmp_path)


def test_an_allowed_change_reaches_the_optimizer(tmp_path):
    weights = []
    for name, typed in (("same", []), ("decay", ["optim.weight_decay=0.5"])):
        words = [*RECIPE, "max_steps=20", f"hydra.run.dir={tmp_path}/{name}"]
        assert finish(words, tmp_path)[0] == 0
        allow = "resume_allow=[optim.weight_decay]"
        code, _ = finish([f"resume={tmp_path}/{name}", "max_steps=60", allow, *typed], tmp_path)
        assert code == 0, told(tmp_path)
        weights.append(json.loads((tmp_path / name / "summary.json").read_text())["weights_sha256"])
    assert weights[0] != weights[1]


def test_fewer_steps_than_done_is_refused(stopped, tmp_path):
    assert finish([f"resume={stopped}", "max_steps=1"], tmp_path)[0] == 4
    assert "nothing to do; raise epochs or max_steps" in told(tmp_path)


def test_overrides_that_a_kill_cut_are_not_lost(tmp_path):
    words = [*RECIPE, "optim.lr=0.03", "max_steps=20", f"hydra.run.dir={tmp_path}/run"]
    assert finish(words, tmp_path)[0] == 0
    (tmp_path / "run" / ".hydra" / "overrides.yaml").write_text("- prefl")
    assert finish([f"resume={tmp_path}/run", "max_steps=30"], tmp_path)[0] == 0, told(tmp_path)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 30


@pytest.mark.parametrize(("full", "code"), [(2, 0), (3, 6)])
def test_a_disk_that_is_full_for_a_while_is_tried_again(tmp_path, monkeypatch, capsys, full, code):
    from trainlab.__main__ import main
    from trainlab.storage import atomic

    failed = []

    def write(path, data, real=atomic.write):
        if path.suffix == ".safetensors" and len(failed) < full:
            failed.append(path)
            raise atomic.unwritable(path, OSError(errno.ENOSPC, "No space left on device"))
        real(path, data)

    monkeypatch.setattr(atomic, "write", write)
    words = ["preflight=none", "probe=none", "max_steps=50", "checkpoint.every=10", "quiet=true"]
    assert main([*words, f"hydra.run.dir={tmp_path}/run"]) == code
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": /")[0] for line in lines[:2]] == [
        f"trainlab: warning: step {step}" for step in (10, 20)
    ]
    assert len(lines) == (2 if code == 0 else 3)
    found, _ = restore.newest(tmp_path / "run" / "checkpoints")
    assert (found.step if found else 0) == (50 if code == 0 else 0)


def test_what_a_kill_in_the_middle_of_a_save_left_is_gone_after_a_resume(stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    for name in ("ckpt-00000001.safetensors", "ckpt-00000009.json.tmp-1-abcd"):
        (folder / name).write_bytes(b"left behind")
    found, _ = restore.newest(folder)
    code, _ = finish([f"resume={tmp_path}/run", f"max_steps={found.step}"], tmp_path)
    assert code == 0, told(tmp_path)
    assert not (folder / "ckpt-00000001.safetensors").exists()
    assert not list(folder.glob("*.tmp-*"))


SHORT = ["preflight=none", "model.widths=[16]", "evaluate.every=20", "log.every=7",
          "probe.every=30", "norm=batch", "model.dropout=0.2", "quiet=true"]  # fmt: skip
PAUSED = [*SHORT, "max_steps=90"]


def test_a_pause_and_going_on_leave_every_bit_of_a_run_never_paused(tmp_path, capsys):
    seen = []
    for name, share in (("whole", "null"), ("half", "0.47")):
        run = tmp_path / name
        assert main([*PAUSED, f"pause_at={share}", f"hydra.run.dir={run}"]) == 0
        if name == "half":
            line = "trainlab: paused at step 43, checkpoint saved; resume with: python -m trainlab"
            assert capsys.readouterr().err == f"{line} resume='{run}' pause_at=null\n"
            status = json.loads((run / "status.json").read_text())
            assert (status["state"], status["step"]) == ("paused", 43)
            assert not (run / "summary.json").exists() and not (run / "error.txt").exists()
            assert main([f"resume={run}", "pause_at=0.6", "quiet=true"]) == 0
            assert restore.newest(run / "checkpoints")[0].step == 54
            capsys.readouterr()
            assert main([f"resume={run}"]) == 2
            assert "the checkpoint is at step 54 of 90 already; use pause_at=null" in told_by(
                capsys
            )
            assert main([f"resume={run}", "pause_at=null", "quiet=true"]) == 0
        summary = json.loads((run / "summary.json").read_text())
        told = (run / "metrics.jsonl").read_bytes().splitlines()[1:]  # the card tells pause_at
        seen.append((told, *(summary[k] for k in ("weights_sha256", "results", "config_digest"))))
    assert seen[0] == seen[1]


def told_by(capsys) -> str:
    return capsys.readouterr().err


def test_a_run_that_has_ended_does_not_pause(tmp_path):
    run = tmp_path / "run"
    assert main([*SHORT, "max_steps=2", "pause_at=0.9", f"hydra.run.dir={run}"]) == 0
    assert json.loads((run / "status.json").read_text())["state"] == "finished"


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("pause_at=1", "must be null or a finite number > 0 and < 1"),
        ("pause_at=0.5 task=lr_range", "only task=train can pause"),
        ("pause_at=0.5 task=check", "only task=train can pause"),
    ],
)
def test_a_pause_that_cannot_be_is_refused_in_one_line(tmp_path, capsys, typed, words):
    assert main([*typed.split(), f"hydra.run.dir={tmp_path}/run"]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("share", "steps", "at"), [(None, 100, 0), (0.07, 100, 7), (1 / 9, 450, 50), (0.001, 10, 1)]
)
def test_the_step_of_a_pause(share, steps, at):
    assert run_folder.pause_step(share, steps) == at
