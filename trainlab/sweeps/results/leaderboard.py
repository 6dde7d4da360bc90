"""The runs of a sweep by rank: a live table, leaderboard.csv at the end, and the closing
summary."""

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


def rows(results: Sequence[Result], nuisance: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One row per run, best setting first, with the columns of leaderboard.csv.

    rank: of the run's setting (its values without the seed), by the mean of `monitor` over seeds,
    so that no lucky seed wins; empty where no seed finished. test_*: for the winner's runs only.
    """
    best = settings(results, nuisance)[:1]
    winner = {run["number"] for setting in best for run in setting.runs.values()}
    keys = list(dict.fromkeys(key for result in results for key in result["values"]))
    measures = list(dict.fromkeys(name for result in results for name in facts(result)))
    table = []
    for rank, setting in enumerate(settings(results), 1):
        for result in filter(None, setting.picked.values()):
            by_split = result.get("results", {})
            row = {"rank": rank if setting.runs else "", "number": result["number"]}
            row |= {"folder": result["folder"], "state": result["state"]}
            values = result["values"]
            row |= {key: as_typed(values[key]) if key in values else "" for key in keys}
            row["monitor"] = result.get("monitor", {}).get("value")
            splits = ["train", "val"] + (["test"] if result["number"] in winner else [])
            for split in ("train", "val", "test"):
                figures = by_split.get(split, {}) if split in splits else {}
                row |= {f"{split}_{k}": figures.get(k, "") for k in measures}
            row |= {key: result.get(key, "") for key in ("steps", "seconds", "reason")}
            table.append(row)
    return table


def with_verdicts(directory: Path, result: Result) -> Result:
    """The result of a run that was only checked: its `reason` names the checks that failed or
    warned."""
    path = directory / result["folder"] / "verdicts.json"
    if result["state"] != "finished" or result.get("results") or not path.exists():
        return result
    verdicts = json.loads(path.read_text())
    parts = []
    for status in ("FAIL", "WARN"):
        if names := [verdict["name"] for verdict in verdicts if verdict["status"] == status]:
            parts.append(f"{len(names)} {status} ({', '.join(names)})")
    return {**result, "reason": ", ".join(parts) or "no FAIL, no WARN"}


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows as CSV, atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["rank"])
    writer.writeheader()
    writer.writerows(rows)
    atomic.write(path, text.getvalue().encode())


def table(results: Sequence[Result]) -> Any:
    """The best TOP settings as a rich table, one row per setting with the mean over its seeds.
    Without the test split."""
    from rich.markup import escape

    from trainlab.observe.console import table_of

    ordered = settings(results)
    keys = list(dict.fromkeys(key for setting in ordered for key in setting.values))
    measures = {k: metric for result in results for k, metric in facts(result).items()}
    columns = [f"val {name}" for name in measures]
    made = table_of("rank", "job", "state", *keys, *columns, "s", numbers=columns)
    checked = [r for r in results if r["state"] == "finished" and r["reason"]]  # of `with_verdicts`
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
    """Context for the running jobs: shows a table on a terminal, else a line for each job that
    ends. `jobs`: their number, None where the search decides."""
    if quiet:
        yield
        return
    watcher = Watcher(directory, jobs, sys.stdout)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(POLL):
            watcher.update()

    thread = threading.Thread(target=watch, name="leaderboard", daemon=True)
    with watcher.shown():
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(5)
            watcher.update()


class Watcher:
    """Shows the jobs that have ended. Prints to `out`, wherever the jobs redirect sys.stdout."""

    def __init__(self, directory: Path, jobs: int | None, out: TextIO):
        from rich.console import Console

        self.directory, self.jobs = directory, jobs
        self.console = Console(file=out, highlight=False, soft_wrap=not out.isatty())
        self.begun = time.monotonic()
        self.ended: dict[str, Result] = {}
        self.before = len(self.new())  # ended in an earlier start of this sweep
        self.rest_shown = False  # whether the estimate for the rest was printed
        self.live: Any = None
        self.table: Any = ""  # empty until the first job ends

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
        """The results since the last call; a file that is still being written comes next time."""
        new = []
        with contextlib.suppress(FileNotFoundError):
            for name in sorted(set(os.listdir(self.directory / "results")) - self.ended.keys()):
                with contextlib.suppress(ValueError, OSError):
                    if name.endswith(".json"):
                        path = self.directory / "results" / name
                        self.ended[name] = with_verdicts(
                            self.directory, json.loads(path.read_text())
                        )
                        new.append(self.ended[name])
        return new

    def update(self) -> None:
        """Show the results that came since the last call."""
        new = self.new()
        if self.live is not None:
            from rich.console import Group

            if new:
                self.table = table(list(self.ended.values()))
            self.live.update(Group(self.table, self.progress()), refresh=True)
            return
        for place, result in enumerate(new, len(self.ended) - len(new) + 1):
            self.console.print(self.line(place, result), markup=False)
        # once, but not while the runs of a stack end one after another
        if not (self.rest_shown or new) and self.before < len(self.ended) != self.jobs:
            self.rest_shown = True
            self.console.print(self.progress())

    def line(self, place: int, result: Result) -> str:
        """`[3/32] 0002_optim.lr=0.1 finished  val/loss 0.1234  1.2 s`"""
        text = result.get("reason", "")
        if math.isfinite(score(result)):
            monitor = result["monitor"]
            text = f"{monitor['name']} {monitored(result).text(monitor['value'])}"
        count = f"[{place}/{self.jobs}]" if self.jobs else f"[{place}]"
        seconds = f"{result.get('seconds') or 0:.1f} s"
        return f"{count} {result['folder']} {result['state']}  {text}  {seconds}"

    def progress(self) -> str:
        """Jobs ended, running and failed, time so far, and the estimate for the rest."""
        ended, passed = len(self.ended), time.monotonic() - self.begun
        bad = sum(result["state"] in ("failed", "diverged") for result in self.ended.values())
        jobs = ledger.read_jobs(self.directory)
        folders = [name for name in jobs if (self.directory / name).exists()]
        now = max(len(folders) - ended, 0)
        text = f"{ended} of {self.jobs or '?'} jobs ended, {now} running, {bad} failed"
        text += f"; {passed:.0f} s so far"
        since_start = ended - self.before
        if since_start and self.jobs:
            text += f", about {passed / since_start * (self.jobs - ended):.0f} s for the rest"
        return text


def close(directory: Path, quiet: bool) -> None:
    """At the end of a sweep, complete or not: write leaderboard.csv, TensorBoard's HParams and the
    mean curves of every setting with several seeds; print the table and the conclusions."""
    from trainlab.observe import hparams
    from trainlab.sweeps.results import seed_curves, sentences

    results = [with_verdicts(directory, result) for result in ledger.results(directory)]
    sweep = ledger.read_manifest(directory)
    if not results:
        return
    nuisance = sweep.get("nuisance", ())
    write_csv(directory / "leaderboard.csv", rows(results, nuisance))
    hparams.write(directory, results)
    compared = settings(results, nuisance)
    for old in directory.glob("mean-[0-9]*"):  # of an earlier comparison, of other settings
        shutil.rmtree(old)
    several = [setting for setting in compared if len(setting.runs) > 1]
    for number, setting in enumerate(several):
        folders = [directory / run["folder"] for run in setting.runs.values()]
        shown = facts(next(iter(setting.runs.values())))
        seed_curves.curves(
            folders, directory / f"mean-{number}", list(shown), sentences.name(setting)
        )
    if quiet:
        return
    from rich.markup import escape

    from trainlab.observe.console import Show, table_of

    print_ = partial(Show().console.print, markup=False, soft_wrap=True)
    lines = sentences.table(compared)
    if nuisance or not lines:
        print_(table(results))
    if lines:
        columns = len(sentences.HEAD) - (not nuisance)  # the last is what was chosen
        head = table_of(*sentences.HEAD[:columns])
        head.caption, head.caption_justify = f"{sweep.get('monitor')} on validation", "left"
        for line in lines[:TOP]:
            head.add_row(*map(escape, line[:columns]))
        print_(head)
    curves = any(directory.glob("*/events.out.tfevents.*"))
    last = [f"curves  tensorboard --logdir {directory}"] if curves else []
    for line in (*sentences.sentences(results, sweep), *last):
        print_(line)
