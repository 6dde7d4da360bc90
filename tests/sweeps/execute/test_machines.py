"""The same jobs under every launcher: the same order on the leaderboard and, but for a stack, the
same digits; a job that asks to exit loses no other."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import planted
import pytest

from trainlab.sweeps.execute import ledger

ROOT = Path(__file__).resolve().parents[3]
JOBS = ["preflight=none", "probe=none", "model.widths=[16]", "max_steps=80", "init=planted",
        "init.place=${optim.lr}", "init.fails=['0.5:exit']", "-m",
        "optim.lr=0.3,0.2,0.1,0.05,0.5,0.02,0.01,0.005,0.002", "hydra.sweep.dir=sweep"]  # fmt: skip
INSTALLED = {"joblib": "joblib_launcher", "submitit_local": "submitit_launcher",
             "ray": "ray_launcher"}  # fmt: skip


def command(launcher: str, folder: Path) -> list[dict]:
    """What the jobs left, by the command as a user types it."""
    folder.mkdir()
    line = [*planted.words(folder), *JOBS, f"hydra/launcher={launcher}"]
    env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run(
        [sys.executable, "-m", "trainlab", *line],
        cwd=folder, env=env, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 8, done.stderr
    assert done.stderr.count("error[sweep]") == 1
    results = ledger.results(folder / "sweep")
    failed = [r for r in results if r["state"] == "failed"]
    assert [r["values"]["optim.lr"] for r in failed] == [0.5]
    assert failed[0]["reason"] == "the run asked to exit (3)"
    finished = [r for r in results if r["state"] == "finished"]
    assert len(results) == 9 and len(finished) == 8
    return finished


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return command("basic", tmp_path_factory.mktemp("basic") / "here")


def order(results: list[dict]) -> list[int]:
    return [r["number"] for r in sorted(results, key=lambda r: r["monitor"]["value"])]


@pytest.mark.parametrize("launcher", ["process", "stack", *INSTALLED])
def test_the_same_leaderboard(launcher, alone, tmp_path):
    plugin = INSTALLED.get(launcher)
    if plugin and not importlib.util.find_spec(f"hydra_plugins.hydra_{plugin}"):
        pytest.skip(f"hydra/launcher={launcher} is not installed")
    found = command(launcher, tmp_path / "here")
    assert order(found) == order(alone)
    if launcher == "stack":
        values = [r["monitor"]["value"] for r in alone]
        assert [r["monitor"]["value"] for r in found] == pytest.approx(values, rel=1e-3)
    else:
        assert [r["results"] for r in found] == [r["results"] for r in alone]
        assert [r["digest"] for r in found] == [r["digest"] for r in alone]
