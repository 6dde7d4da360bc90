"""Paused stories of single runs, trained as one stack. Each goes on in its own folder, as if it had
been trained alone. R runs, B batch."""

import contextlib
import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from trainlab import rundir, world
from trainlab.errors import ConfigError, NonFiniteError, Stopped
from trainlab.rundir import Flag
from trainlab.stack import Stack
from trainlab.train import Every, Trainer, Watch


@dataclass
class Paused:
    """A story of `chapters` at the place where it trains."""

    told: Iterator[Any]
    trainer: Trainer
    every: Every
    watch: Watch
    bench: Any

    @classmethod
    def at_fit(cls, told: Iterator[Any], bench: Callable[[], Any]) -> "Paused":
        with silent():
            return cls(told, *next(told), bench())

    def end(self, error: BaseException | None = None) -> Any:
        """Tell the rest: the summary, or the exception that ends it."""
        try:
            with silent():
                next(self.told) if error is None else self.told.throw(error)
        except StopIteration as end:
            return end.value
        except Exception as raised:
            return raised
        raise RuntimeError("the story trains twice")

    def alone(self) -> Any:
        world.seed_everything(self.bench.cfg.seed, "dropout")  # others were opened since
        try:
            with silent():
                self.trainer.fit(self.every, self.watch)
        except Exception as error:
            return self.end(error)
        return self.end()


class Empty(Exception):
    """No run is left in the stack."""


def together(jobs: Sequence[Paused], show: Any) -> list[Any]:
    """The outcome of each job: its summary, or the exception that ended it."""
    crew = None
    if len(jobs) > 1:
        try:
            crew = Crew(jobs, show)
        except (ConfigError, RuntimeError) as error:  # what torch.func cannot map
            show.note(f"one by one: {(str(error).splitlines() or [''])[0]}")
    return [job.alone() for job in jobs] if crew is None else crew.train()


class Crew:
    """The runs of one stack, each with its own rows, probes, checkpoints and end."""

    def __init__(self, jobs: Sequence[Paused], show: Any):
        self.jobs, self.show = list(jobs), show
        self.outcomes: dict[int, Any] = {}
        self.stack = Stack([job.trainer for job in jobs], [job.bench.cfg.seed for job in jobs])
        self.saved, self.cost = time.monotonic(), 0.0  # when, and what it took
        for job in jobs:
            job.trainer.extra_row = dict  # the stack's rows have these figures already
        self.measured = {
            name: job.bench.door(node)
            for job in jobs[:1]
            for name, node in job.bench.cfg.probe.items()
            if name != "every"
        }

    def train(self) -> list[Any]:
        trainer, watch = self.stack.trainer, Watch(self.rows, None, self.save, self.after)
        if self.measured:
            watch = replace(watch, probe=self.probe)
        self.show.start(trainer.at, trainer.steps)
        try:
            with contextlib.suppress(Empty):
                trainer.fit(self.jobs[0].every, watch)
        except Exception as error:
            for run in self.inside():
                own = self.stopped(run) if isinstance(error, Stopped) else error
                self.outcomes[run] = self.jobs[run].end(own)
        finally:
            self.show.stop()
        for run in self.inside():
            self.outcomes[run] = self.jobs[run].end()
        return [self.outcomes[run] for run in range(len(self.jobs))]

    def inside(self) -> list[int]:
        return [run for run in self.stack.ids if run is not None and run not in self.outcomes]

    def rows(self, step: int, values: dict[str, Tensor]) -> None:
        """One row to each run that goes on; who is done leaves."""
        trainer, stack = self.stack.trainer, self.stack
        if "val/loss" in values and self.measured:
            from trainlab.doctor.watch import dead_units

            found = dead_units(self.jobs[0].bench, trainer, runs=True)
            values = values | {f"activation_dead/{name}": share for name, share in found.items()}
        values = values | trainer.extra_row()
        columns = {tag: torch.as_tensor(value).tolist() for tag, value in values.items()}
        gone = stack.diverged_at()
        done = [r for r in stack.leaving() if r not in gone and step < trainer.steps]
        for run, at in gone.items():
            if run not in self.outcomes:
                self.diverged(run, at)
        for run in self.inside():
            row = self.own(columns, run)
            if run in done:  # its last row has what every last row has
                row |= self.take_out(run).interval()
            with silent():
                self.jobs[run].watch.rows(step, row)
            if run in done:
                self.leave(run)
        inside = self.inside()
        if not inside:
            raise Empty
        told = [self.own(columns, run) for run in inside]
        middle = {tag: median(row[tag] for row in told) for tag in told[0]}
        self.show.row(step, middle)
        if len(inside) <= len(stack.ids) // 2:
            stack.compact(inside)

    def own(self, columns: dict[str, Any], run: int) -> dict[str, float]:
        place = self.stack.place(run)
        return {t: v[place] if isinstance(v, list) else v for t, v in columns.items()}

    def diverged(self, run: int, at: int) -> None:
        """It ends as it would alone, which tells the lr to try."""
        single = self.take_out(run)
        try:
            single.diverged(at, "loss = nan")
        except NonFiniteError as error:
            self.outcomes[run] = self.jobs[run].end(error)
            self.show.note(f"{self.keeper(run).directory.name}: {error}")

    def leave(self, run: int) -> None:
        """Stopped early."""
        single = self.jobs[run].trainer
        self.jobs[run].watch.save(single)
        self.outcomes[run] = self.jobs[run].end()
        self.show.note(f"{self.keeper(run).directory.name}: stopped early at step {single.at}")

    def take_out(self, run: int) -> Trainer:
        """The run's own Trainer, as it is now in the stack; its dropout stream is torch's."""
        single = self.jobs[run].trainer
        stream = self.stack.take_out(run, single)
        torch.set_rng_state(stream.get_state())
        self.keeper(run).status.step = single.at
        return single

    def keeper(self, run: int) -> Any:
        """Who writes the run's checkpoints, and knows its log and status."""
        return self.jobs[run].watch.save.__self__

    def save(self, trainer: Trainer) -> None:
        for run in self.inside():
            self.jobs[run].watch.save(self.take_out(run))

    def after(self, trainer: Trainer) -> None:
        """A signal stops all runs, each with its checkpoint; saving takes 2 % of the time."""
        inside = self.inside()
        if Flag.current is not None and Flag.current.raised is not None:
            for run in inside:
                self.keeper(run).save_now(self.take_out(run))
            raise self.stopped(inside[0])
        first = self.keeper(inside[0])
        if time.monotonic() - self.saved > max(first.seconds, 50 * self.cost):
            begun = time.monotonic()
            self.save(trainer)
            self.saved = time.monotonic()
            self.cost = self.saved - begun

    def stopped(self, run: int) -> Stopped:
        """The line that says how this run goes on."""
        at, directory = self.stack.trainer.at, self.keeper(run).directory
        return rundir.stopped(Flag.current.raised, at, directory)

    @contextlib.contextmanager
    def probe(self, trainer: Trainer, x: Tensor, y: Tensor) -> Iterator[None]:
        """One look into all runs at once."""
        from trainlab.measure import measured, write
        from trainlab.taps import stepping

        with stepping(trainer, x, y, runs=len(self.stack.ids)) as sight:
            yield
        seen = measured(sight, self.measured)
        for run in self.inside():
            write(self.keeper(run).log, trainer.at, *seen[self.stack.place(run)])


def silent() -> contextlib.AbstractContextManager:
    """A story of many prints nothing."""
    return contextlib.redirect_stdout(io.StringIO())
