"""The runs of a sweep by rank: a table while it goes on, leaderboard.csv at its end, and what is
to be said of it then."""

import contextlib
import csv
import io
import json
import math
import os
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, TextIO

from trainlab.errors import as_typed
from trainlab.storage import atomic
from trainlab.sweeps.execute import ledger
from trainlab.sweeps.results.comparison import (
    Result,
    facts,
    label,
    monitored,
    score,
    settings,
)

TOP = 10  # rows of the table; leaderboard.csv has all
POLL = 0.5  # s


def rows(found: Sequence[Result], nuisance: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One row a run, best setting first; the columns of leaderboard.csv.

    rank: of the run's values without the seed, by the mean of `monitor` over the seeds, so that no
    lucky seed wins; none where no seed finished. test_*: of the winner's runs only.
    """
    best = settings(found, nuisance)[:1]
    winner = {run["number"] for setting in best for run in setting.runs.values()}
    keys = list(dict.fromkeys(key for result in found for key in result["values"]))
    measures = list(dict.fromkeys(name for result in found for name in facts(result)))
    told = []
    for rank, setting in enumerate(settings(found), 1):
        for result in filter(None, setting.picked.values()):
            seen = result.get("results", {})
            row = {"rank": rank if setting.runs else "", "number": result["number"]}
            row |= {"folder": result["folder"], "state": result["state"]}
            values = result["values"]
            row |= {key: as_typed(values[key]) if key in values else "" for key in keys}
            row["monitor"] = result.get("monitor", {}).get("value")
            splits = ["train", "val"] + (["test"] if result["number"] in winner else [])
            for split in ("train", "val", "test"):
                figures = seen.get(split, {}) if split in splits else {}
                row |= {f"{split}_{k}": figures.get(k, "") for k in measures}
            row |= {key: result.get(key, "") for key in ("steps", "seconds", "reason")}
            told.append(row)
    return told


def with_verdicts(directory: Path, result: Result) -> Result:
    """A run that was only checked has no figure: what failed and warned is its `reason`."""
    path = directory / result["folder"] / "verdicts.json"
    if result["state"] != "finished" or result.get("results") or not path.exists():
        return result
    verdicts = json.loads(path.read_text())
    told = []
    for status in ("FAIL", "WARN"):
        if names := [verdict["name"] for verdict in verdicts if verdict["status"] == status]:
            told.append(f"{len(names)} {status} ({', '.join(names)})")
    return {**result, "reason": ", ".join(told) or "no FAIL, no WARN"}


def write_csv(path: Path, told: Sequence[Mapping[str, Any]]) -> None:
    """All rows, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(told[0]) if told else ["rank"])
    writer.writeheader()
    writer.writerows(told)
    atomic.write(path, text.getvalue().encode())


def table(found: Sequence[Result]) -> Any:
    """The best TOP of what was tried, as a rich table; seeds of one setting are one row, their
    mean. The test split is not in it."""
    from rich.markup import escape

    from trainlab.observe.console import table_of

    ordered = settings(found)
    keys = list(dict.fromkeys(key for setting in ordered for key in setting.values))
    measures = {name: own for result in found for name, own in facts(result).items()}
    columns = [f"val {name}" for name in measures]
    made = table_of("rank", "job", "state", *keys, *columns, "s", numbers=columns)
    checked = [r for r in found if r["state"] == "finished" and r["reason"]]  # of `with_verdicts`
    if checked:
        made.add_column("verdicts")
    more = f"{len(ordered) - TOP} more in leaderboard.csv" if len(ordered) > TOP else None
    made.caption, made.caption_justify = more, "left"
    for rank, setting in enumerate(ordered[:TOP], 1):
        runs = [run for run in setting.picked.values() if run]
        states = Counter(run["state"] for run in runs)
        state = ", ".join(f"{n} {s}" if runs[1:] else s for s, n in states.items())
        values = [escape(label({"": setting.values.get(key)})[1:]) for key in keys]
        figures = {name: setting.figures("val", name) for name in measures}
        means = [measures[k].text(mean(values)) if values else "" for k, values in figures.items()]
        job = f"{len(runs)} runs" if runs[1:] else f"{runs[0]['number']:04d}"
        seconds = f"{sum(run.get('seconds') or 0 for run in runs):.1f}"
        reasons = "; ".join(dict.fromkeys(run["reason"] for run in runs if run in checked))
        row = [str(rank) if any(means) else "", job, state, *values, *means, seconds]
        made.add_row(*row, *([reasons] if checked else []))
    return made


@contextlib.contextmanager
def live(directory: Path, jobs: int | None, quiet: bool) -> Iterator[None]:
    """While the jobs run: on a terminal a table, else a line for each that ends. `jobs`: how many
    there will be, None where the search decides."""
    if quiet:
        yield
        return
    watcher = Watcher(directory, jobs, sys.stdout)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(POLL):
            watcher.look()

    thread = threading.Thread(target=watch, name="leaderboard", daemon=True)
    with watcher.shown():
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(5)
            watcher.look()


class Watcher:
    """What has ended so far. Prints to `out`, wherever the jobs send sys.stdout meanwhile."""

    def __init__(self, directory: Path, jobs: int | None, out: TextIO):
        from rich.console import Console

        self.directory, self.jobs = directory, jobs
        self.console = Console(file=out, highlight=False, soft_wrap=not out.isatty())
        self.begun = time.monotonic()
        self.ended: dict[str, Result] = {}
        self.before = len(self.new())  # of an earlier start of the same sweep
        self.rest_shown = False  # how long the rest takes
        self.live: Any = None
        self.table: Any = ""  # before the first has ended

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        if not self.console.is_terminal:
            self.console.print(self.progress())
            yield
            return
        from rich.live import Live

        with Live(console=self.console, auto_refresh=False, transient=True) as self.live:
            yield

    def new(self) -> list[Result]:
        """The results that came since the last call; one that is not whole yet comes next time."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for name in sorted(set(os.listdir(self.directory / "results")) - self.ended.keys()):
                with contextlib.suppress(ValueError, OSError):
                    if name.endswith(".json"):
                        path = self.directory / "results" / name
                        self.ended[name] = with_verdicts(
                            self.directory, json.loads(path.read_text())
                        )
                        found.append(self.ended[name])
        return found

    def look(self) -> None:
        """Show what came."""
        new = self.new()
        if self.live is not None:
            from rich.console import Group

            if new:
                self.table = table(list(self.ended.values()))
            self.live.update(Group(self.table, self.progress()), refresh=True)
            return
        for place, result in enumerate(new, len(self.ended) - len(new) + 1):
            self.console.print(self.line(place, result), markup=False)
        # once, and not while the runs of a stack end one after another
        if not (self.rest_shown or new) and self.before < len(self.ended) != self.jobs:
            self.rest_shown = True
            self.console.print(self.progress())

    def line(self, place: int, result: Result) -> str:
        """`[3/32] 0002_optim.lr=0.1 finished  val/loss 0.1234  1.2 s`"""
        told = result.get("reason", "")
        if math.isfinite(score(result)):
            told = (
                f"{result['monitor']['name']} {monitored(result).text(result['monitor']['value'])}"
            )
        count = f"[{place}/{self.jobs}]" if self.jobs else f"[{place}]"
        seconds = f"{result.get('seconds') or 0:.1f} s"
        return f"{count} {result['folder']} {result['state']}  {told}  {seconds}"

    def progress(self) -> str:
        """How many of how many, since when, and how long for the rest at the pace so far."""
        ended, passed = len(self.ended), time.monotonic() - self.begun
        bad = sum(result["state"] in ("failed", "diverged") for result in self.ended.values())
        jobs = ledger.read_jobs(self.directory)
        folders = [name for name in jobs if (self.directory / name).exists()]
        now = max(len(folders) - ended, 0)
        told = f"{ended} of {self.jobs or '?'} jobs ended, {now} under way, {bad} failed"
        told += f"; {passed:.0f} s so far"
        own = ended - self.before
        if own and self.jobs:
            told += f", about {passed / own * (self.jobs - ended):.0f} s for the rest"
        return told


def close(directory: Path, quiet: bool) -> None:
    """At the end of a sweep, or of what there is of it: leaderboard.csv, TensorBoard's HParams, the
    mean curves of every setting with several seeds, and what came out in words."""
    from trainlab.observe import hparams
    from trainlab.sweeps.results import spread, verdict

    found = [with_verdicts(directory, result) for result in ledger.results(directory)]
    sweep = ledger.read_manifest(directory)
    if not found:
        return
    nuisance = sweep.get("nuisance", ())
    write_csv(directory / "leaderboard.csv", rows(found, nuisance))
    hparams.write(directory, found)
    compared = settings(found, nuisance)
    for old in directory.glob("mean-[0-9]*"):  # of an earlier comparison, of other settings
        shutil.rmtree(old)
    several = [setting for setting in compared if len(setting.runs) > 1]
    for number, setting in enumerate(several):
        folders = [directory / run["folder"] for run in setting.runs.values()]
        shown = facts(next(iter(setting.runs.values())))
        spread.curves(folders, directory / f"mean-{number}", list(shown), verdict.name(setting))
    if quiet:
        return
    from rich.markup import escape

    from trainlab.observe.console import Show, table_of

    print_ = partial(Show().console.print, markup=False, soft_wrap=True)
    lines = verdict.table(compared)
    if nuisance or not lines:
        print_(table(found))
    if lines:
        columns = len(verdict.HEAD) - (not nuisance)  # the last is what was chosen
        head = table_of(*verdict.HEAD[:columns])
        head.caption, head.caption_justify = f"{sweep.get('monitor')} on validation", "left"
        for line in lines[:TOP]:
            head.add_row(*map(escape, line[:columns]))
        print_(head)
    curves = any(directory.glob("*/events.out.tfevents.*"))
    last = [f"curves  tensorboard --logdir {directory}"] if curves else []
    for line in (*verdict.sentences(found, sweep), *last):
        print_(line)
