"""All the runs of -m, one after the other, and what came out of them side by side."""

import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from trainlab import errors, rundir


def sweep(asked: Any, directory: Path, job: Callable, report: Callable) -> int:
    """Run every job in a folder of its own under `directory`; 8 when some did not finish.

    job(cfg) gives a summary or the exception that ended it; report(error, folder) prints that.
    """
    if (directory / "multirun.yaml").exists():
        raise errors.BusyError(f"hydra.sweep.dir = {directory}: holds a sweep; choose another")
    lines = [o.input_line for o in asked.overrides]
    if (n := asked.ours.repeats) > 1:
        if asked.ours.resume is not None:
            raise errors.ConfigError(f"repeats = {n}: not with resume; go on with each run alone")
        seed = asked.typed("seed")
        if seed is not None and not isinstance(seed, int):
            raise errors.ConfigError(f"repeats = {n}: has the seeds of its own; drop seed={seed}")
        first = asked.ours.seed
        lines = [
            line for line in lines if not line.startswith(("seed=", "hydra.run.dir=", "repeats="))
        ]
        lines.append(f"seed={','.join(str(first + i) for i in range(n))}")
        if asked.typed("hydra/launcher") is None:
            lines.append("hydra/launcher=stack")
    if asked.typed("hydra.sweep.dir") is None:
        lines.append(f"hydra.sweep.dir='{directory}'")
    if asked.typed("hydra.sweep.subdir") is None:
        ours = [o for o in asked.overrides if not o.is_hydra_override()]
        odd = [o.key_or_group for o in ours if re.search(r"[^\w.,=+-]", o.input_line)]
        quiet = [*odd, "repeats", "stack.size", "quiet"]
        length = sum(len(o.input_line) for o in ours if o.key_or_group not in quiet)
        named = "_${hydra.job.override_dirname}" if 0 < length < 150 else ""
        lines.append(f"hydra.sweep.subdir='${{hydra.job.num}}{named}'")
        lines.append(f"hydra.job.config.override_dirname.exclude_keys=[{','.join(quiet)}]")
    function = partial(one, job, report)
    function.__module__ = "trainlab.multirun"  # Hydra asks for it
    asked.hydra.multirun("config", function, [*lines, "hydra.mode=MULTIRUN"])
    folders = sorted((path.parent for path in directory.glob("**/.hydra")), key=number)
    if not asked.cfg.quiet:
        compare(folders, directory, asked.ours.repeats)
    failed = 0
    for folder in folders:
        status = rundir.told(folder)
        if (state := status.get("state", "failed")) != "finished":
            reason = status.get("reason") or "see error.txt there"
            print(f"trainlab: error[sweep]: {folder}: {state}: {reason}", file=sys.stderr)
            failed += 1
    return 8 if failed else 0


def one(job: Callable, report: Callable, cfg: Any) -> Any:
    """One run of many: its failure is told and does not end the others; a signal ends them all."""
    from hydra.core.hydra_config import HydraConfig

    directory = Path(HydraConfig.get().runtime.output_dir)
    if not cfg.quiet:
        print(f"== job {directory.name}", flush=True)
    outcome = job(cfg)
    if isinstance(outcome, Exception):
        code = report(outcome, directory)
        if isinstance(outcome, errors.Stopped):
            sys.exit(code)
        rundir.failed(directory, outcome)
    return outcome


def compare(folders: list[Path], directory: Path, repeats: int = 1) -> None:
    """What each job reached on validation with its best weights; the test split chooses nothing,
    and is shown where there is one setting only. With `repeats` the mean and the spread of each."""
    from trainlab.show import Show, table_of

    table = table_of("job", "state", "val loss", "val accuracy")
    for folder in folders:
        path = folder / "summary.json"
        seen = json.loads(path.read_text())["results"]["val"] if path.exists() else {}
        figures = [f"{seen[name]:.4f}" if seen else "" for name in ("loss", "accuracy")]
        table.add_row(folder.name, rundir.told(folder).get("state", "failed"), *figures)
    show, notes = Show(), []
    if repeats > 1:
        from trainlab.sweep import spread

        found = spread.settings(folders)
        for number, (name, runs) in enumerate(found.items()):
            label = f"{name or 'all'}: mean +- std of {len(runs)} of {repeats}"
            table.add_row(label, "", *spread.reached(runs, "val"), style="bold")
            spread.curves(runs, directory / f"mean-{number}")
        if len(found) == 1:
            loss, accuracy = spread.reached(runs, "test")
            notes.append(
                f"test: loss {loss}, accuracy {accuracy} over {len(runs)} of {repeats} seeds"
            )
    show.console.print(table)
    show.notes(notes)
    show.note(f"curves  tensorboard --logdir {directory}")


def number(folder: Path) -> tuple[int, str]:
    """For sorting: job 10 after job 9."""
    found = re.match(r"\d+", folder.name)
    return int(found[0]) if found else 0, folder.name
