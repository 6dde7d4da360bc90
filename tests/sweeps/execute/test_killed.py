"""SIGKILL of a sweep's own process at random moments, and the same command again: each job has one
result, none ran to its end twice, and every bit is that of the undisturbed sweep."""

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import planted
import pytest
from forked import start

from trainlab.sweeps.execute import ledger

RECIPE = ["preflight=none", "probe=none", "model.widths=[16]", "max_steps=80",
          "checkpoint.every=10", "quiet=true", "task=planted", "-m",
          "hydra.sweep.dir=sweep"]  # fmt: skip
ROOT = Path(__file__).resolve().parents[3]


def forked(line: list[str], where: Path) -> int:
    return start(line, where)


def whole(line: list[str], where: Path) -> int:
    """A command of its own: a fork would share the pytest process's own server of processes."""
    env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    log = os.O_CREAT | os.O_WRONLY | os.O_APPEND
    out = [(os.POSIX_SPAWN_OPEN, 1, f"{where}/output.txt", log, 0o600), (os.POSIX_SPAWN_DUP2, 1, 2)]
    argv = [sys.executable, "-m", "trainlab", *line]
    return os.posix_spawn(sys.executable, argv, env, file_actions=out)


def to_the_end(begin, line: list[str], where: Path, kills: int, moment: Callable) -> int:
    """Start, kill after moment() seconds, and start again; how many kills came before the end."""
    landed = 0
    while True:
        pid = begin(line, where)
        if landed < kills:
            time.sleep(moment())
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            return landed
        assert code == -signal.SIGKILL, (where / "output.txt").read_text()
        landed += 1


def weights(sweep: Path) -> dict[str, str]:
    found = sorted(sweep.glob("*/summary.json"))
    return {p.parent.name: json.loads(p.read_text())["weights_sha256"] for p in found}


def killed(begin, launcher, jobs: int, kills: int, where: Path, monkeypatch, seed=0) -> int:
    seen, rng, seconds = {}, random.Random(seed), 0.0
    for name, times in (("whole", 0), ("killed", kills)):
        folder = where / name
        line = [*planted.words(folder), *RECIPE, f"hydra/launcher={launcher}",
                f"seed=range(0,{jobs})"]  # fmt: skip
        monkeypatch.chdir(folder)
        begun = time.monotonic()
        # half of the undisturbed time at most: a start that goes on has less to do
        moment = partial(rng.uniform, 0.1, seconds / 2)
        landed = to_the_end(begin, line, folder, times, moment)
        seconds = time.monotonic() - begun
        results = ledger.results(folder / "sweep")
        assert [r["number"] for r in results] == list(range(jobs))
        assert {r["state"] for r in results} == {"finished"}
        ended = Counter((folder / "sweep" / "ended.txt").read_text().split())
        assert max(ended.values()) == 1
        seen[name] = weights(folder / "sweep")
    assert seen["whole"] == seen["killed"] and len(seen["whole"]) == jobs
    return landed


def test_a_killed_sweep_goes_on(tmp_path, monkeypatch):
    assert killed(forked, "basic", 4, 2, tmp_path, monkeypatch) > 0


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("begin", "launcher"), [(forked, "basic"), (whole, "process")])
def test_twenty_killed_sweeps_go_on(begin, launcher, seed, tmp_path, monkeypatch):
    killed(begin, launcher, 12, 5, tmp_path, monkeypatch, seed)
