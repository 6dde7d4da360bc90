"""What hands jobs to the stack launcher, as the driver of a sweep does."""

import json
from pathlib import Path

from hydra.types import RunMode

from trainlab.__main__ import job, report
from trainlab.cli import compose, multirun
from trainlab.sweeps.execute.launch import launch

WORDS = ["probe=none", "preflight=none", "model.widths=[16]", "log.every=7", "evaluate.every=15",
         "checkpoint.every=20", "model.dropout=0.2", "norm=batch", "average.ema=0.9",
         "optim=adam", "quiet=true", "stack.size=8"]  # fmt: skip
RUNS = [["optim.lr=0.01", f"seed={seed}"] for seed in range(3)] + [["optim.lr=0.03", "seed=0"]]


def names(jobs) -> list[str]:
    return [f"{number}_{','.join(lines)}" for number, lines in enumerate(jobs)]


def drive(sweep: Path, jobs, *more: str, begin: int = 0, folders=None, ended=None) -> list:
    """What came of each job; `more` are words for all of them. A job that has a checkpoint goes
    on."""
    folders = folders or names(jobs)
    own = dict(line.partition("=")[::2] for line in [*WORDS, *more])
    lines = [f"{key}={value}" for key, value in own.items()]
    asked = []
    for name, each in zip(folders, jobs, strict=True):
        found = [*lines, *each, f"hydra.sweep.subdir='{name}'"]
        if list((sweep / name / "checkpoints").glob("*.json")):
            again = 1 + len(list((sweep / name / ".hydra").glob("resume-*")))
            found += [f"resume='{sweep / name}'", f"hydra.output_subdir=.hydra/resume-{again:03d}"]
        asked.append(found)
    function = multirun.OneOfMany(job, report, ended)
    with compose.hydra_session() as hydra:
        typed = ["hydra/launcher=stack", f"hydra.sweep.dir='{sweep}'", "hydra.mode=MULTIRUN"]
        master = hydra.compose_config("config", typed, RunMode.MULTIRUN)
        done = launch(compose.context_of(hydra), function, master, asked, begin)
    return [each.return_value for each in done]


def reached(folder: Path) -> tuple:
    """What must be the same bits however often a run was stopped."""
    summary = json.loads((folder / "summary.json").read_text())
    told = [line for line in (folder / "metrics.jsonl").read_bytes().splitlines()
            if b'"text"' not in line]  # fmt: skip
    return summary["weights_sha256"], summary["results"], summary["best_step"], told
