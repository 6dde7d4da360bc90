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
    if asked.typed("hydra.sweep.dir") is None:
        lines.append(f"hydra.sweep.dir='{directory}'")
    if asked.typed("hydra.sweep.subdir") is None:
        ours = [o for o in asked.overrides if not o.is_hydra_override()]
        odd = [o.key_or_group for o in ours if re.search(r"[^\w.,=+-]", o.input_line)]
        length = sum(len(o.input_line) for o in ours if o.key_or_group not in odd)
        named = "_${hydra.job.override_dirname}" if 0 < length < 150 else ""
        lines.append(f"hydra.sweep.subdir='${{hydra.job.num}}{named}'")
        lines.append(f"hydra.job.config.override_dirname.exclude_keys=[{','.join(odd)}]")
    function = partial(one, job, report)
    function.__module__ = "trainlab.multirun"  # Hydra asks for it
    asked.hydra.multirun("config", function, [*lines, "hydra.mode=MULTIRUN"])
    folders = sorted((path.parent for path in directory.glob("**/.hydra")), key=number)
    if not asked.cfg.quiet:
        compare(folders, directory)
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
        if not rundir.told(directory):
            status = {"state": "failed", "step": 0, "reason": str(outcome)}
            (directory / "status.json").write_text(json.dumps(status))
    return outcome


def compare(folders: list[Path], directory: Path) -> None:
    """What each job reached on validation with its best weights; the test split chooses nothing."""
    from trainlab.show import Show, table_of

    table = table_of("job", "state", "val loss", "val accuracy")
    for folder in folders:
        path = folder / "summary.json"
        seen = json.loads(path.read_text())["results"]["val"] if path.exists() else {}
        figures = [f"{seen[name]:.4f}" if seen else "" for name in ("loss", "accuracy")]
        table.add_row(folder.name, rundir.told(folder).get("state", "failed"), *figures)
    show = Show()
    show.console.print(table)
    show.note(f"curves  tensorboard --logdir {directory}")


def number(folder: Path) -> tuple[int, str]:
    """For sorting: job 10 after job 9."""
    found = re.match(r"\d+", folder.name)
    return int(found[0]) if found else 0, folder.name
