"""What goes wrong in one job loses no other, whoever launches them."""

import json
from pathlib import Path

import planted
import pytest

from trainlab.__main__ import main
from trainlab.sweeps.execute import ledger

JOBS = 12
SMALL = ["preflight=none", "probe=none", "model.widths=[8]", "max_steps=20"]
REASONS = {
    "exception": "ZeroDivisionError: division by zero",
    "exit": "the run asked to exit (3)",
    "nonfinite": "loss = nan",
    "kill": "killed by SIGKILL",
    "segfault": "killed by SIGSEGV",
    "hang": "hung: nothing for 8 s (sweep.timeout)",
}
EVERYWHERE = "exception", "exit", "nonfinite"
ALL = [(name, kind) for name in ("basic", "stack") for kind in EVERYWHERE]
ALL += [("process", kind) for kind in REASONS]


def plant(folder: Path, launcher: str, fails: dict[int, str], capsys) -> None:
    told = ",".join(f"'{at}:{kind}'" for at, kind in fails.items())
    typed = [*planted.words(folder), *SMALL, "init=planted", f"init.place=range(0,{JOBS})",
             f"init.fails=[{told}]", f"hydra/launcher={launcher}", f"hydra.sweep.dir={folder}/s",
             "sweep.workers=3", "sweep.timeout=8", "stack.size=5"]  # fmt: skip
    assert main(["-m", *typed]) == 8
    err = capsys.readouterr().err
    results = ledger.results(folder / "s")
    assert [r["number"] for r in results] == list(range(JOBS))
    states = {at: "diverged" if kind == "nonfinite" else "failed" for at, kind in fails.items()}
    assert [r["state"] for r in results] == [states.get(at, "finished") for at in range(JOBS)]
    for at, kind in fails.items():
        assert REASONS[kind] in results[at]["reason"]
        line = f"trainlab: error[sweep]: {folder}/s/{results[at]['folder']}: {states[at]}: "
        assert line + results[at]["reason"] in err
        status = json.loads((folder / "s" / results[at]["folder"] / "status.json").read_text())
        assert status["state"] == states[at]
    assert "Traceback" not in err


@pytest.mark.parametrize("launcher", ["basic", "stack"])
def test_lost_jobs_lose_no_other(launcher, tmp_path, capsys):
    plant(tmp_path, launcher, {0: "exit", 6: "nonfinite", 11: "exception"}, capsys)


def test_a_process_that_dies_or_hangs_loses_no_other_job(tmp_path, capsys):
    plant(tmp_path, "process", {1: "kill", 2: "hang", 6: "exit", 11: "segfault"}, capsys)


@pytest.mark.long
@pytest.mark.parametrize("at", [0, 6, JOBS - 1])
@pytest.mark.parametrize(("launcher", "kind"), ALL)
def test_one_lost_job_loses_no_other(launcher, kind, at, tmp_path, capsys):
    plant(tmp_path, launcher, {at: kind}, capsys)
