"""What the launcher of processes makes of GPUs, signals and jobs that died at a bad moment."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from trainlab.config import keys
from trainlab.storage import run_folder
from trainlab.sweeps.execute import ledger, processes


@pytest.mark.parametrize(
    ("typed", "leased"), [(None, ["0", "1"]), ("", []), ("3", []), ("1,3", ["1", "3"])]
)
def test_gpus_that_are_hidden_are_not_leased(typed, leased, monkeypatch):
    monkeypatch.setattr(Path, "glob", lambda *_: ["nvidia0", "nvidia1"])
    monkeypatch.delenv(processes.GPUS, raising=False)
    if typed is not None:
        monkeypatch.setenv(processes.GPUS, typed)
    assert processes.visible("auto") == leased


def test_what_goes_wrong_between_two_jobs_is_told(monkeypatch):
    begun, real = [], processes.must_end

    def started(server, task, cfg, gpu, callbacks):
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(cfg * 60,))
        process.start()
        begun.append(process)
        return processes.Running(process, Path(), cfg, gpu, 0.0)

    def over(running, timeout):
        if running.cfg:
            raise OSError("disk full")
        running.process.join()
        return real(running, timeout)

    monkeypatch.setattr(processes, "Jobs", lambda *_: SimpleNamespace(config=lambda number: number))
    monkeypatch.setattr(processes, "started", started)
    monkeypatch.setattr(processes, "must_end", over)
    master = OmegaConf.create(keys.defaults() | {"sweep": {"workers": 2, "timeout": None}})
    with pytest.raises(OSError, match="disk full"):
        processes.launch(SimpleNamespace(callbacks=None), None, master, [[], []], 0)
    assert begun[1].exitcode == -signal.SIGTERM


@pytest.mark.parametrize(
    ("before", "after"), [("finished", "finished"), ("diverged", "diverged"), ("running", "failed")]
)
def test_a_job_killed_between_its_end_and_its_result(before, after, tmp_path):
    folder = tmp_path / "0001_seed=0"
    (folder / ".hydra").mkdir(parents=True)
    ledger.write_jobs(tmp_path, {folder.name: 7})  # not what its name looks like
    cfg = OmegaConf.create({"seed": 0, "monitor": "val/loss"})
    OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
    (folder / ".hydra" / "overrides.yaml").write_text("- seed=0")
    (folder / "status.json").write_text(json.dumps({"state": before, "step": 5, "reason": "why"}))
    summary = {"results": {"val": {"loss": 0.25}}, "steps": 5, "seconds": 1.0}
    (folder / "summary.json").write_text(json.dumps(summary))
    processes.lost(processes.Running(None, folder, cfg, None, 0.0), "killed by SIGKILL")
    (result,) = ledger.results(tmp_path)
    assert (result["folder"], result["number"]) == (folder.name, 7)
    assert result["state"] == after == run_folder.read_status(folder)["state"]
    assert result["reason"] == ("killed by SIGKILL" if before == "running" else "why")
    assert result["monitor"]["value"] == (0.25 if after == "finished" else None)


def test_ctrl_c_stays_ctrl_c_when_the_sweep_ends_its_jobs():
    with run_folder.signals() as flag:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert flag.raised == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
