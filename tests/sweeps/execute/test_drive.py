"""What the driver asks of a launcher: batches, rungs, seeds; and that a sweep cut anywhere goes on
as if it had not been."""

import json
import math
import shutil
from functools import partial
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from spaces import space_of

from trainlab.cli import compose, multirun
from trainlab.config import keys
from trainlab.errors import ConfigError, TrainlabError
from trainlab.sweeps.execute import drive, ledger
from trainlab.sweeps.search.samplers.coarse_to_fine import coarse_to_fine
from trainlab.sweeps.search.samplers.halving import halving

SPACE = space_of("optim.lr=tag(log,interval(1e-4,1))")
STEPS = 90


METRIC = {"accuracy": {"direction": "up"}}


class Launcher:
    """Jobs of a known loss, each a folder as a run leaves it; dies after so many. The job of one
    folder may fail."""

    fails = ""

    def __init__(self, directory: Path, left: float = math.inf, monitor: str = "val/loss"):
        self.directory, self.left, self.monitor = directory, left, monitor
        self.ran: list[str] = []

    def launch(self, jobs, initial_job_idx):
        for lines in jobs:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            self.run(dict(line.partition("=")[::2] for line in lines))

    def run(self, line: dict[str, str]) -> None:
        folder = self.directory / line["hydra.sweep.subdir"].strip("'")
        hydra = folder / line.get("hydra.output_subdir", ".hydra")
        assert folder.exists() == ("resume" in line)
        hydra.mkdir(parents=True)
        config = {"optim": {"lr": float(line["optim.lr"])}, "monitor": self.monitor,
                  "metric": METRIC, "seed": int(line.get("seed", 0)), "pause_at": None}  # fmt: skip
        config["pause_at"] = float(line["pause_at"]) if "pause_at" in line else None
        OmegaConf.save(config, hydra / "config.yaml")
        told = [f"optim.lr={line['optim.lr']}", f"seed={config['seed']}"]
        (hydra / "overrides.yaml").write_text("\n".join(f"- {text}" for text in told))
        step = math.ceil((config["pause_at"] or 1) * STEPS)
        loss = abs(math.log10(config["optim"]["lr"]) + 2) + config["seed"] + 1 / step
        (folder / "metrics.jsonl").write_text(json.dumps({"step": step, self.monitor: loss}) + "\n")
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / "checkpoints" / "ckpt-00000001.json").touch()
        done = config["pause_at"] is None
        state = {"state": "finished" if done else "paused", "step": step, "reason": ""}
        (folder / "status.json").write_text(json.dumps(state))
        self.ran.append(f"{folder.name} {step}")
        if folder.name == self.fails:
            (folder / "status.json").write_text("{}")
            ledger.ended(TrainlabError("planted"), folder, OmegaConf.create(config))
        elif done:
            split, measure = self.monitor.split("/")
            summary = {"results": {split: {measure: loss}}, "steps": step, "seconds": 1.0}
            (folder / "summary.json").write_text(json.dumps(summary))
            ledger.ended(summary, folder, OmegaConf.create(config))


def swept(launcher: Launcher, sampler, repeats: int = 1) -> list[dict]:
    """A sweep to its end; its results without what the clock says."""
    launcher.directory.mkdir(exist_ok=True)
    (launcher.directory / "sweep.json").write_text('{"axes": {"optim.lr": "", "seed": ""}}')
    master = OmegaConf.create(
        keys.defaults() | {"repeats": repeats, "monitor": launcher.monitor, "metric": METRIC}
    )
    sweep = drive.Sweep(launcher, launcher.directory, master, [])
    drive.played(sampler, sweep.run)
    sweep.drop()
    return ledger.results(launcher.directory)


SAMPLERS = {
    "halving": partial(halving, SPACE, trials=9, seed=3, eta=3),
    "coarse_to_fine": partial(coarse_to_fine, SPACE, trials=8, seed=3, stages=2),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sweep_cut_anywhere_asks_for_the_same(name, tmp_path):
    whole = Launcher(tmp_path / "whole")
    expected = swept(whole, SAMPLERS[name]())
    for cut in (0, 3, len(whole.ran) - 4, len(whole.ran) - 1):
        first, second = (Launcher(tmp_path / f"cut{cut}", left) for left in (cut, math.inf))
        with pytest.raises(KeyboardInterrupt):
            swept(first, SAMPLERS[name]())
        assert swept(second, SAMPLERS[name]()) == expected
        assert sorted(first.ran + second.ran) == sorted(whole.ran)
        shutil.rmtree(first.directory)


def test_halving_pauses_goes_on_and_drops(tmp_path):
    launcher = Launcher(tmp_path / "s")
    results = swept(launcher, SAMPLERS["halving"]())
    states = [r["state"] for r in results]
    assert (states.count("finished"), states.count("dropped")) == (1, 8)
    assert [line.split()[1] for line in launcher.ran] == ["10"] * 9 + ["30"] * 3 + ["90"]
    best = min(results, key=lambda r: abs(math.log10(r["values"]["optim.lr"]) + 2))
    assert best["state"] == "finished"
    assert all(math.isfinite(r["monitor"]["value"]) for r in results)


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_failed_is_tried_again(name, tmp_path):
    sampler = partial(SAMPLERS[name], **({} if name == "halving" else {"until": 0.5}))
    expected = swept(Launcher(tmp_path / "whole"), sampler())
    launcher = Launcher(tmp_path / "s")
    launcher.fails = expected[0]["folder"]
    assert swept(launcher, sampler())[0]["state"] == "failed"
    launcher.fails = ""
    assert swept(launcher, sampler())[0]["state"] == "failed"
    ledger.forget(launcher.directory, ledger.LOST)
    assert swept(launcher, sampler())[0] == expected[0]


def test_a_setting_has_the_mean_of_its_seeds_and_accuracy_is_better_when_higher(tmp_path):
    seen = []

    def once(monitor):
        seen.append((yield [drive.Ask({"optim.lr": "0.01"}), drive.Ask({"optim.lr": "1e-2"})]))

    for monitor in ("val/loss", "val/accuracy"):
        launcher = Launcher(tmp_path / monitor[4:], monitor=monitor)
        swept(launcher, once(monitor), repeats=3)
        assert launcher.ran == [f"000{s}_optim.lr=0.01-seed={s} 90".replace("-", ",")
                                for s in range(3)]  # fmt: skip
    assert seen[0] == pytest.approx([1 + 1 / STEPS] * 2)  # 1e-2 is 0.01: the same runs
    assert seen[1] == pytest.approx([-1 - 1 / STEPS] * 2)


def test_a_pause_before_the_first_evaluation_is_told(tmp_path):
    launcher = Launcher(tmp_path / "s")
    launch = launcher.launch

    def unjudged(jobs, initial_job_idx):
        launch(jobs, initial_job_idx)
        for path in launcher.directory.glob("*/metrics.jsonl"):
            path.write_text("")

    launcher.launch = unjudged
    with pytest.raises(ConfigError, match="paused at step 10, before its first val/loss"):
        swept(launcher, SAMPLERS["halving"]())


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["max_steps=50"], "1ep: none in the first 0.333 of 50 steps"),
        (["epochs=2", "evaluate.every=50"], "50: none in the first 0.333 of 80 steps"),
        (["max_steps=50", "evaluate.every=17"], None),
        (["max_steps=50,60"], None),
    ],
)
def test_a_share_without_an_evaluation_is_refused_before_a_folder_is_made(lines, told):
    typed = ["hydra/sweeper=halving", "sweep.trials=3", "optim.lr=0.1,0.2,0.3", *lines]
    with compose.hydra_session() as hydra:
        asked = compose.check(hydra, typed, True)
    if told is None:
        assert multirun.make_plan(asked)["jobs"] == 3
    else:
        with pytest.raises(ConfigError, match=f"evaluate.every = {told}.*; use evaluate.every="):
            multirun.make_plan(asked)


def test_jobs_that_did_not_end_stop_the_sweep(tmp_path):
    launcher = Launcher(tmp_path / "s")
    launcher.run = lambda line: None
    with pytest.raises(TrainlabError, match="9 jobs did not end; the same command runs them"):
        swept(launcher, SAMPLERS["halving"]())
