"""The jobs of a sweep, stack by stack, each in the folder that it would have had alone."""

import hashlib
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from hydra.core.utils import run_job

from trainlab.config import keys
from trainlab.errors import Paused, Stopped
from trainlab.experiment import phases
from trainlab.observe.console import Show
from trainlab.storage import run_folder
from trainlab.sweeps.execute import align_checkpoints
from trainlab.sweeps.execute.compose import Jobs
from trainlab.sweeps.execute.partition import key, stackable_jobs
from trainlab.sweeps.execute.paused import PausedRun
from trainlab.sweeps.execute.planner import halved, planned
from trainlab.sweeps.execute.train_stack import NoRoom, train_stack


class Task(Protocol):
    """What Hydra runs a job with: cli.multirun.OneOfMany."""

    job: Callable[..., Any]  # its summary, or the exception that ended it
    report: Callable[[Exception, Path], Any]
    ended: Callable[[Any, Path, Any], None] | None  # (outcome, folder, config), as soon as it has

    def __call__(self, cfg: Any) -> str: ...


def launch(
    context: Any, task: Task, master: Any, overrides: Sequence[Sequence[str]], begin: int
) -> list[Any]:
    """Hydra's JobReturn of each job, in order."""
    with run_folder.signals() as flag:  # one for all runs
        jobs = Jobs(context, master, overrides, begin)
        return Launch(context, task, Path(str(master.hydra.sweep.dir)), jobs, flag).all()


class Launch:
    """One call of the launcher: `returns` has Hydra's JobReturn of each job that was opened."""

    def __init__(self, context: Any, task: Task, sweep: Path, jobs: Jobs, flag: Any):
        self.task, self.context, self.sweep, self.jobs, self.flag = task, context, sweep, jobs, flag
        self.plain = [jobs.plain(place) for place in range(len(jobs.parsed))]
        self.show = Show(quiet=jobs.master.quiet, pause=5.0)
        self.returns: dict[int, Any] = {}

    def all(self) -> list[Any]:
        number = 0
        for structure in stackable_jobs(self.plain):
            folders = {place: self.plain[place].get("resume") for place in structure}
            for places in align_checkpoints.align_checkpoints(folders):
                self.group(number, places)
                number += 1
        return [self.returns[place] for place in range(len(self.plain))]

    def group(self, number: int, places: list[int]) -> None:
        """Jobs of one structure that begin at one step, as many at a time as is planned."""
        own = hashlib.sha256(key(self.plain[places[0]]).encode()).hexdigest()
        path, shared, size = self.sweep / f"stack-{own[:12]}.json", Shared(), None
        while places:
            first = self.opened(places[0], shared)
            if size is None and isinstance(first, PausedRun) and len(places) > 1:
                asked = self.plain[places[0]]["stack.size"]
                plan = planned(first.bench, len(places), asked, path)
                size = plan.size
                self.show.note(f"stack {number}: {len(places)} runs, {plan.sentence}")
            chunk, places = places[: size or 1], places[size or 1 :]
            try:
                self.chunk(chunk, first, shared)
            except NoRoom as error:
                again = [p for p in chunk if isinstance(self.returns[p].return_value, PausedRun)]
                size = halved(len(again), path)
                self.show.note(f"stack {number}: {error}; {size} at a time, from their beginning")
                places = again + places
                for place in again:
                    self.clear(place)

    def chunk(self, places: list[int], first: Any, shared: "Shared") -> None:
        """Open the jobs, train them together, and let each end."""
        stories = {places[0]: first}
        for place in places[1:]:
            if self.flag.raised is not None:
                break  # these have not begun
            stories[place] = self.opened(place, shared)
        ready: dict[int, list[int]] = {}  # step -> places; a checkpoint may have been damaged
        for place, outcome in stories.items():
            if isinstance(outcome, PausedRun):
                ready.setdefault(outcome.trainer.step_count, []).append(place)
            else:
                self.end(place, outcome)
        for some in ready.values():
            ended = partial(lambda some, number, outcome: self.end(some[number], outcome), some)
            train_stack([stories[place] for place in some], self.show, ended)
        stopped = [p for p in stories if isinstance(self.returns[p].return_value, Stopped)]
        if self.flag.raised is not None or stopped:
            sys.exit(run_folder.EXIT_CODES.get(self.flag.raised, 130))

    def opened(self, place: int, shared: "Shared") -> Any:
        """A job up to where it trains, or what ended it before."""
        self.returns[place] = run_job(
            hydra_context=self.context,
            task_function=partial(self.task.job, start=shared.open),
            config=self.jobs.config(place),
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
            configure_logging=False,
        )
        return self.returns[place].return_value

    def folder(self, place: int) -> Path:
        return Path(self.returns[place].hydra_cfg.hydra.runtime.output_dir)

    def end(self, place: int, outcome: Any) -> None:
        """Report a failure and leave its status; no other run ends. A pause is no failure, and the
        sweep reports a stop once."""
        self.returns[place].return_value = outcome
        if isinstance(outcome, Exception) and not isinstance(outcome, Paused | Stopped):
            self.task.report(outcome, self.folder(place))
            run_folder.record_failure(self.folder(place), outcome)
        if self.task.ended is not None:
            self.task.ended(outcome, self.folder(place), self.returns[place].cfg)

    def clear(self, place: int) -> None:
        """Let go of what a job that starts again has written; one that went on does so again."""
        self.returns[place].return_value.phases.close()
        self.returns[place].return_value = None  # and with it the memory
        if self.plain[place]["resume"] is None:
            shutil.rmtree(self.folder(place))


class Shared:
    """What the jobs of one stack have in common: the data and, where only their seeds differ, the
    verdicts of the preflight."""

    def __init__(self) -> None:
        self.bench: Any = None
        self.checked: dict[str, tuple[list[Any], Path]] = {}  # setting -> verdicts, where they are

    def open(self, task: Any, cfg: Any, directory: Path, door: Any, choices: Any) -> Any:
        """Start a run and stop where it is ready to train; other tasks run to their end."""
        if not isinstance(task, phases.Train):
            return task(cfg, directory, door, choices)
        return PausedRun.at_fit(
            phases.phases(cfg, directory, door, choices, self.prepare, self.check)
        )

    def prepare(self, cfg: Any, door: Any) -> Any:
        if self.bench is None:
            self.bench = phases.prepare(cfg, door)
        return replace(self.bench, cfg=cfg, door=door)

    def check(self, bench: Any, directory: Path, show: Any) -> list[Any]:
        setting = keys.digest(keys.values(bench.cfg) | {"seed": 0})
        if setting not in self.checked:
            self.checked[setting] = phases.preflight(bench, directory, show), directory
        verdicts, where = self.checked[setting]
        for name in ("verdicts.json", "checks-error.txt") if where != directory else ():
            if (where / name).exists():
                shutil.copy(where / name, directory / name)
        return verdicts
