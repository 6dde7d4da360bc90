"""Paused runs, trained as one stack. Each resumes in its own folder, as if it had
been trained alone. R runs, B batch."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from trainlab.errors import ConfigError, NonFiniteError, Paused, Stopped
from trainlab.stack import Stack
from trainlab.stack.random_layers import Drawing
from trainlab.storage import run_folder
from trainlab.storage.run_folder import Flag
from trainlab.sweeps.execute import memory
from trainlab.sweeps.execute.paused import PausedRun, forward_of, silent
from trainlab.training.metrics import validated
from trainlab.training.trainer import PLAIN, Trainer, Watch


class AllRunsEnded(Exception):
    """No run is left in the stack."""


class NoRoom(Exception):
    """The memory was too small for the stack: the runs that have not ended start again."""


Ended = Callable[[int, Any], None]


def train_stack(jobs: Sequence[PausedRun], show: Any, ended: Ended) -> None:
    """Train them; `ended(number, outcome)` is called as soon as a job has its summary, or the
    exception that ended it. NoRoom, with all stories closed, where the memory was too small."""
    if any(job.trainer.ended() for job in jobs):  # killed between its last step and its summary
        for number, job in enumerate(jobs):
            if job.trainer.ended():
                ended(number, job.alone())
        left = [number for number, job in enumerate(jobs) if not job.trainer.ended()]
        train_stack([jobs[n] for n in left], show, lambda n, outcome: ended(left[n], outcome))
        return
    crew = None
    try:
        if len(jobs) > 1:
            crew = StackRun(jobs, show, ended)
    except (ConfigError, RuntimeError) as error:  # what torch.func cannot map
        if memory.too_little(error):
            raise no_room(jobs, error) from error
        show.note(f"one by one: {(str(error).splitlines() or [''])[0]}")
    if crew is not None:
        crew.train()
        return
    for number, job in enumerate(jobs):
        ended(number, job.alone())


def no_room(jobs: Sequence[PausedRun], error: BaseException) -> NoRoom:
    """What to raise when `jobs` did not fit; closes their stories."""
    for job in jobs:
        with silent():
            job.phases.close()
    return NoRoom(f"out of memory with {len(jobs)} runs ({str(error).splitlines()[0]})")


class StackRun:
    """The runs of one stack, each with its own rows, probes, checkpoints and end."""

    def __init__(self, jobs: Sequence[PausedRun], show: Any, ended: Ended):
        self.jobs, self.show, self.ended = list(jobs), show, ended
        self.outcomes: dict[int, Any] = {}
        cfg = jobs[0].bench.cfg
        forward, eager = forward_of(cfg, cfg.compile), forward_of(cfg, False)
        streams = [job.stream() for job in jobs]
        self.stack = Stack([job.trainer for job in jobs], streams, forward)
        if cfg.compile and any(isinstance(m, Drawing) for m in self.stack.model.modules()):
            raise ConfigError("compile: not in a stack that draws at random; run one by one")
        self.saved, self.cost = time.monotonic(), 0.0  # when, and what it took
        for job in jobs:
            model = job.trainer.model
            job.trainer.change(
                forward=eager(model) if eager else model,
                extra_metrics=PLAIN.extra_metrics,  # the stack's rows have these figures already
            )
        self.measured = {
            name: job.bench.door(node)
            for job in jobs[:1]
            for name, node in job.bench.cfg.probe.items()
            if name != "every"
        }

    def train(self) -> None:
        """Until every run has ended. Raises NoRoom with those closed that have not."""
        trainer, watch = self.stack.trainer, Watch(self.rows, None, self.save, self.after)
        if self.measured:
            watch = replace(watch, probe=self.probe)
        self.show.start(trainer.step_count, trainer.steps, trainer.facts)
        try:
            with contextlib.suppress(AllRunsEnded):
                trainer.fit(self.jobs[0].every, watch)
        except Exception as error:
            if memory.too_little(error):
                raise no_room([self.jobs[run] for run in self.inside()], error) from error
            for run in self.inside():
                self.end(run, self.stopped() if isinstance(error, Stopped | Paused) else error)
        finally:
            self.show.stop()
        for run in self.inside():
            self.end(run)

    def end(self, run: int, error: BaseException | None = None) -> None:
        self.outcomes[run] = self.jobs[run].end(error)
        self.ended(run, self.outcomes[run])

    def inside(self) -> list[int]:
        return [run for run in self.stack.ids if run is not None and run not in self.outcomes]

    def rows(self, step: int, values: dict[str, Tensor]) -> None:
        """One row to each run that goes on; who is done leaves."""
        trainer, stack = self.stack.trainer, self.stack
        if validated(values) and self.measured:
            from trainlab.doctor.watch import dead_units

            found = dead_units(self.jobs[0].bench, trainer, runs=True)
            values = values | {f"activation_dead/{name}": share for name, share in found.items()}
        values = values | trainer.extra_metrics(trainer)
        columns = {tag: torch.as_tensor(value).tolist() for tag, value in values.items()}
        for run, (at, what) in stack.diverged_at().items():
            if run not in self.outcomes:
                self.diverged(run, at, what)
        done = [r for r in stack.leaving() if r not in self.outcomes and step < trainer.steps]
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
            raise AllRunsEnded
        rows = [self.own(columns, run) for run in inside]
        middle = {tag: median(row[tag] for row in rows) for tag in rows[0]}
        self.show.lead = self.count()
        self.show.row(step, middle)
        if len(inside) <= len(stack.ids) // 2:
            stack.compact(inside)

    def count(self) -> str:
        """How many runs there are, and what became of them."""
        kinds = {NonFiniteError: "diverged"}
        ended = Counter(
            kinds.get(type(outcome), "failed") if isinstance(outcome, Exception) else "done"
            for outcome in self.outcomes.values()
        )
        counts = [f"{len(self.inside())} running"]
        counts += [f"{n} {state}" for state, n in ended.items()]
        return f"{len(self.jobs)} runs: {', '.join(counts)}  "

    def own(self, columns: dict[str, Any], run: int) -> dict[str, float]:
        place = self.stack.place(run)
        return {t: v[place] if isinstance(v, list) else v for t, v in columns.items()}

    def diverged(self, run: int, at: int, what: str) -> None:
        """It ends as it would alone, which tells the lr to try."""
        single = self.take_out(run)
        try:
            single.diverged(at, what)
        except NonFiniteError as error:
            self.end(run, error)
            self.note(run, error)

    def leave(self, run: int) -> None:
        """Stopped early."""
        single = self.jobs[run].trainer
        self.jobs[run].watch.save(single)
        self.end(run)
        self.note(run, f"stopped early at step {single.step_count}")

    def note(self, run: int, text: object) -> None:
        self.show.note(f"{self.jobs[run].checkpointer.directory.name}: {text}")

    def take_out(self, run: int) -> Trainer:
        """The run's own Trainer, as it is now in the stack; its dropout stream is torch's."""
        single = self.jobs[run].trainer
        stream = self.stack.take_out(run, single)
        torch.set_rng_state(stream.get_state())
        self.jobs[run].checkpointer.status.step = single.step_count
        return single

    def save(self, trainer: Trainer) -> None:
        for run in self.inside():
            self.write(run, self.jobs[run].watch.save)
        if not self.inside():
            raise AllRunsEnded

    def write(self, run: int, save: Callable[[Trainer], None]) -> None:
        """A checkpoint of one run, which ends where a loss or weight of it is not finite."""
        try:
            save(self.take_out(run))
        except NonFiniteError as error:
            self.end(run, error)
            self.note(run, error)

    def after(self, trainer: Trainer) -> None:
        """A signal or `pause_at` stops all runs, each with its checkpoint; saving takes 2 % of the
        time."""
        first = self.jobs[self.inside()[0]].checkpointer
        if self.signal() is not None or first.pauses(trainer):
            for run in self.inside():
                self.write(run, self.jobs[run].checkpointer.save_now)
            self.show.note(
                f"{len(self.inside())} runs at step {trainer.step_count}, checkpoints saved"
            )
            raise self.stopped()
        if time.monotonic() - self.saved > max(first.seconds, 50 * self.cost):
            begun = time.monotonic()
            self.save(trainer)
            self.saved = time.monotonic()
            self.cost = self.saved - begun

    def signal(self) -> Any:
        return Flag.current and Flag.current.raised

    def stopped(self) -> Stopped | Paused:
        return run_folder.stop_error(self.signal(), self.stack.trainer.step_count)

    @contextlib.contextmanager
    def probe(self, trainer: Trainer, x: Tensor, y: Tensor) -> Iterator[None]:
        """One look into all runs at once."""
        from trainlab.observe.capture import capture_step
        from trainlab.observe.statistics import measured, write

        with capture_step(trainer, x, y, runs=len(self.stack.ids)) as record:
            yield
        seen = measured(record, self.measured)
        for run in self.inside():
            write(self.jobs[run].checkpointer.log, trainer.step_count, *seen[self.stack.place(run)])
