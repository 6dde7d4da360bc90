"""SIGKILL at random moments, resume, and in the end every bit as in the undisturbed run.

A fork server: torch is imported once, each start is a forked process that types a real command
line. The default slice kills 16 times over 4 random configurations; `-m long` 100 times over 20
(its result is kept in docs/reliability.md).
"""

import hashlib
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from forked import finish, start

from trainlab.storage import checkpoint, restore

SMALL = ["preflight=none", "max_steps=150", "quiet=true", "checkpoint.every=15",
         "evaluate.every=20",
         "log.every=7", "probe.every=25"]  # fmt: skip


def configuration(seed: int) -> list[str]:
    """A random recipe; together they cover dropout, norms, schedules, optimizers, clipping,
    penalties, augmentation, averages, early stopping, accumulation and groups."""
    pick = random.Random(seed).choice
    model = pick(["model=mlp", "model=mlp", "model=cnn"])
    width = "model.channels=[4,8]" if model == "model=cnn" else "model.widths=[24,16]"
    words = [
        model,
        width,
        f"model.dropout={pick([0.0, 0.2, 0.5])}",
        f"norm={pick(['none', 'batch', 'batch', 'layer', 'group norm.groups=4'])}",
        f"activation={pick(['relu', 'elu', 'rrelu', 'sigmoid', 'prelu', 'maxout'])}",
        f"optim={pick(['sgd', 'adam', 'adamw', 'muon', 'lars', 'annealed_noise', 'adagrad'])}",
        f"schedule={pick(['constant', 'step', 'warmup_cosine', 'plateau', 'cosine_restarts'])}",
        f"augment={pick(['[none]', '[shift]', '[noise]', '[mixup]'])}",
        f"average.ema={pick(['null', 0.95])}",
        f"evaluate.statistics={pick(['ema', 'full_pass'])}",
        f"early_stop.patience={pick(['null', 3])}",
        f"accumulate={pick([1, 3])}",
        f"groups.lr={pick(['[]', '[head*:0.5]'])}",
        f"init={pick(['he_normal', 'xavier_normal', 'torch_default'])}",
        f"penalty.l2={pick([0.0, 1e-3])}",
        f"clip.norm={pick(['null', 1.0])}",
        f"batch_size={pick([16, 32, 50])}",
        f"monitor={pick(['val/loss', 'val/accuracy'])}",
        f"seed={seed}",
    ]
    return SMALL + " ".join(words).split()


def outcome(run: Path) -> dict[str, str]:
    """Digests of everything that must be bit-identical: both checkpoints' tensors, best weights,
    metrics.jsonl."""
    found = {p.name: p for p in (run / "checkpoints").glob("*.safetensors")}
    files = dict(sorted(found.items())) | {"metrics": run / "metrics.jsonl"}
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    summary = json.loads((run / "summary.json").read_text())
    return digests | {key: summary[key] for key in ("results", "best_step", "weights_sha256")}


def undisturbed(recipe: list[str], where: Path) -> tuple[dict, float]:
    where.mkdir()
    code, seconds = finish([*recipe, f"hydra.run.dir={where}/run"], where)
    assert code == 0, (where / "output.txt").read_text()
    return outcome(where / "run"), seconds


def killed(
    recipe: list[str], where: Path, kills: int, seconds: float, rng: random.Random
) -> tuple[dict, int]:
    """The same recipe, killed up to `kills` times at random moments of each start, resumed until
    it is done."""
    where.mkdir()
    run, landed = where / "run", 0
    while True:
        fresh = not (run / ".hydra" / "overrides.yaml").exists()
        arguments = [*recipe, f"hydra.run.dir={run}"] if fresh else [f"resume={run}"]
        pid = start(arguments, where)
        if landed < kills:
            time.sleep(rng.uniform(0, seconds))
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            return outcome(run), landed
        assert code == -signal.SIGKILL, (where / "output.txt").read_text()
        landed += 1


def kill_and_compare(seed: int, kills: int, tmp_path: Path) -> None:
    """Kill runs of one configuration until so many kills have landed; a run may end before one
    does."""
    recipe, rng, landed, tries = configuration(seed), random.Random(seed), 0, 0
    expected, seconds = undisturbed(recipe, tmp_path / "whole")
    while landed < kills:
        tries += 1
        assert tries < 20, "the kills come too late"
        seen, hits = killed(recipe, tmp_path / f"killed{tries}", kills - landed, seconds, rng)
        landed += hits
        assert seen == expected, recipe


@pytest.mark.parametrize("seed", range(4))
def test_killed_and_resumed_runs_end_in_the_same_bits(seed, tmp_path):
    kill_and_compare(seed, 4, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 120))
def test_a_hundred_kills_over_twenty_configurations(seed, tmp_path):
    kill_and_compare(seed, 5, tmp_path)


RECIPE = SMALL + ["model.widths=[24,16]", "norm=batch", "model.dropout=0.3", "optim=adam",
                  "optim.lr=0.01",
                  "schedule=plateau", "schedule.patience=0", "schedule.threshold=10",
                  "schedule.factor=0.7", "average.ema=0.9", "seed=7"]  # fmt: skip


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run stopped by SIGTERM in the middle of an epoch and of an interval, and how it should
    have ended."""
    where = tmp_path_factory.mktemp("items")
    expected, seconds = undisturbed(RECIPE, where / "whole")
    stopped = where / "stopped"
    stopped.mkdir()
    for attempt in range(20):
        pid = start([*RECIPE, f"hydra.run.dir={stopped}/{attempt}"], stopped)
        time.sleep(seconds * (0.2 + 0.04 * attempt))
        os.kill(pid, signal.SIGTERM)
        _, status = os.waitpid(pid, 0)
        run = stopped / str(attempt)
        if os.waitstatus_to_exitcode(status) == 143 and (run / "checkpoints").exists():
            found, _ = restore.newest(run / "checkpoints")
            if 25 < found.step < 140 and found.step % 7 and found.best:
                return run, expected
    pytest.fail("no SIGTERM hit the middle of the run")


def test_nothing_left_out_ends_in_the_same_bits(interrupted, tmp_path):
    run, expected = interrupted
    assert resumed_without(run, tmp_path, lambda tensors, best, facts: None) == expected


ITEMS = {
    "model": lambda tensors, best, facts: drop(tensors, "model."),
    "buffers": lambda tensors, best, facts: drop(tensors, "model.hidden1.norm.running"),
    "optimizer": lambda tensors, best, facts: drop(tensors, "optimizer."),
    "moments": lambda tensors, best, facts: facts["trainer"]["optimizer"].clear(),
    "record": lambda tensors, best, facts: (
        drop(tensors, "record."),
        facts["trainer"].update(record_sizes=[]),
    ),
    "best value": lambda tensors, best, facts: (drop(tensors, "best."), best.clear()),
    "best weights": lambda tensors, best, facts: best.clear(),
    "torch's generator": lambda tensors, best, facts: drop(tensors, "rng.torch"),
    "numpy's generator": lambda tensors, best, facts: drop(tensors, "rng.numpy"),
    "python's generator": lambda tensors, best, facts: drop(tensors, "rng.python"),
    "generators' numbers": lambda tensors, best, facts: facts.pop("random"),
    "smoothed loss": lambda tensors, best, facts: drop(tensors, "smoothed"),
    "averaged weights": lambda tensors, best, facts: drop(tensors, "average."),
    "history": lambda tensors, best, facts: facts["trainer"]["history"].clear(),
    "position": lambda tensors, best, facts: facts["trainer"].pop("at"),
    "bytes of metrics": lambda tensors, best, facts: facts.pop("metrics_bytes"),
    "config": lambda tensors, best, facts: facts.pop("config"),
    "data digest": lambda tensors, best, facts: facts.pop("data"),
    "environment": lambda tensors, best, facts: facts.pop("environment"),
    "elapsed time": lambda tensors, best, facts: facts.pop("elapsed_seconds"),
    "number of resumes": lambda tensors, best, facts: facts.pop("resumes"),
    "preprocessing": lambda tensors, best, facts: facts.pop("preprocess"),
    "classes": lambda tensors, best, facts: facts.pop("classes"),
    "version": lambda tensors, best, facts: facts.pop("trainlab"),
}


def drop(tensors: dict, prefix: str) -> None:
    doomed = [name for name in tensors if name.startswith(prefix)]
    assert doomed, f"nothing is called {prefix}"
    for name in doomed:
        del tensors[name]


def resumed_without(run: Path, where: Path, leave_out) -> dict | None:
    """A copy of the run whose newest checkpoint, sealed anew, lacks an item. None when it is
    refused."""
    shutil.copytree(run, where / "run")
    folder = where / "run" / "checkpoints"
    found, _ = restore.newest(folder)
    tensors, best, facts = (
        dict(found.tensors),
        dict(found.best),
        json.loads(json.dumps(found.facts)),
    )
    leave_out(tensors, best, facts)
    for name in ("format", "step", "files", "best_step"):
        facts.pop(name)
    for path in folder.iterdir():
        path.unlink()
    checkpoint.save(folder, found.step, tensors, best, found.facts["best_step"], facts)
    code, _ = finish([f"resume={where}/run"], where)
    if code == 4:
        return None
    assert code == 0, (where / "output.txt").read_text()
    return outcome(where / "run")


@pytest.mark.parametrize("item", ITEMS)
def test_every_item_of_the_checkpoint_is_needed(interrupted, tmp_path, item):
    """The negative control: with one item left out the resume is refused, or the comparison above
    fails."""
    run, expected = interrupted
    assert resumed_without(run, tmp_path, ITEMS[item]) != expected
