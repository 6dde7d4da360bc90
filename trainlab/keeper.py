"""What survives of a run: saved while it trains, and taken up again bit for bit."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainlab import __version__, checkpoint, rundir, spine, world
from trainlab.checkpoint import Checkpoint
from trainlab.errors import CheckpointError, MachineError
from trainlab.log import Log
from trainlab.train import Trainer

FAILURES = 3  # saves in a row that may fail, the last of them included


class Keeper:
    """Writes the checkpoints of one run, and stops it when a signal asks.

    facts: what a checkpoint must hold beside the Trainer's state: config, data digest,
    environment, preprocessing, ...
    """

    def __init__(
        self, directory: Path, facts: dict[str, Any], seconds: float, status: rundir.Status
    ):
        self.directory, self.facts, self.seconds = directory, facts, seconds
        self.status = status
        self.saved_at, self.saved_when, self.cost = 0, time.monotonic(), 0.0
        self.begun = time.monotonic()
        self.resumes = self.failures = 0
        self.log: Log | None = None

    def elapsed(self) -> float:
        """Seconds of training, the earlier starts of this run included."""
        return time.monotonic() - self.begun

    def save(self, trainer: Trainer) -> None:
        """As `save_now`, but a disk that is full for a while does not end the run: it is tried
        again when the next checkpoint is due, FAILURES times at most and never at the end."""
        try:
            self.save_now(trainer)
            self.failures = 0
        except MachineError as error:
            self.failures += 1
            if self.failures >= FAILURES or trainer.ended():
                raise
            self.saved_when = time.monotonic()
            print(f"trainlab: warning: step {trainer.at}: {error}; trying again", file=sys.stderr)

    def save_now(self, trainer: Trainer) -> None:
        """The state of this step, durable when it returns. Raises NonFiniteError rather than save
        bad weights, MachineError when it cannot be written."""
        if trainer.at == self.saved_at:
            return
        begun = time.monotonic()
        tensors, numbers = checkpoint.state_of(trainer)
        randoms, random_numbers = world.random_state()
        facts = {
            "metrics_bytes": self.log.sync(),
            "trainer": numbers,
            "random": random_numbers,
            "elapsed_seconds": self.elapsed(),
            "resumes": self.resumes,
            **self.facts,
        }
        folder = self.directory / "checkpoints"
        best = trainer.best, trainer.best_at()
        checkpoint.save(folder, trainer.at, tensors | randoms, *best, facts)
        self.saved_at, self.saved_when = trainer.at, time.monotonic()
        self.cost = self.saved_when - begun

    def after(self, flag: rundir.Flag, trainer: Trainer) -> None:
        """Asked after every step: stop when a signal came, save when the time is up; saving takes
        at most 2 % of it."""
        self.status.step = trainer.at
        if flag.raised is not None:
            self.save_now(trainer)
            raise rundir.stopped(flag.raised, trainer.at, self.directory)
        if time.monotonic() - self.saved_when > max(self.seconds, self.cost * 50):
            self.save(trainer)

    def find(self, steps: int, allowed: Sequence[str]) -> tuple[Checkpoint | None, list[str]]:
        """The newest whole checkpoint to go on from, and notes to show. Changes nothing.

        Raises CheckpointError when all are damaged, when the recipe or the data changed in a way
        that is not allowed, and when the run of so many `steps` is already past its end.
        """
        saved, wrong = checkpoint.newest(self.directory / "checkpoints")
        notes = [f"warning: {text}; using the checkpoint before it" for text in wrong]
        if saved is None:
            return None, notes
        for name in (
            *self.facts,
            "metrics_bytes",
            "trainer",
            "random",
            "elapsed_seconds",
            "resumes",
        ):
            if name not in saved.facts:
                raise self._missing(saved, name)
        same(self.facts, saved.facts, allowed)
        if saved.step > steps:
            raise CheckpointError(
                f"resume = {self.directory}: the checkpoint is at step {saved.step} and the run "
                f"would end at {steps}: nothing to do; raise epochs or max_steps"
            )
        now = self.facts["environment"]
        for key, then in saved.facts["environment"].items():
            if now[key] != then:
                notes.append(
                    f"warning: {key} is {now[key]}, the checkpoint has {then}: bits may differ"
                )
        for key in ("epochs", "max_steps"):
            now, then = (told["config"][key] for told in (self.facts, saved.facts))
            if now != then:
                notes.append(f"{key} was {then}, now {now}: schedules follow the new length")
        return saved, [*notes, f"resumed {self.directory} at step {saved.step} of {steps}"]

    def take_up(self, saved: Checkpoint, trainer: Trainer) -> int:
        """Bring the Trainer and the random streams there; bytes of metrics.jsonl it stands on."""
        try:
            checkpoint.restore(trainer, saved.tensors, saved.best, saved.facts["trainer"])
            world.restore_random_state(saved.tensors, saved.facts["random"])
        except KeyError as error:
            raise self._missing(saved, error) from error
        self.saved_at = saved.step
        self.begun -= saved.facts["elapsed_seconds"]
        self.resumes = saved.facts["resumes"] + 1
        return saved.facts["metrics_bytes"]

    def _missing(self, saved: Checkpoint, name: object) -> CheckpointError:
        return CheckpointError(
            f"resume = {self.directory}: {name} is missing from the checkpoint of step "
            f"{saved.step}; remove that checkpoint, or start again without resume"
        )


def same(now: dict[str, Any], then: dict[str, Any], allowed: Sequence[str]) -> None:
    """Refuse another recipe or other data than a checkpoint's facts tell of. CheckpointError."""
    here, there = spine.flat(now["config"]), spine.flat(then["config"])
    for key in sorted(here.keys() | there.keys()):
        if here.get(key) != there.get(key) and not spine.harmless(key) and key not in allowed:
            raise CheckpointError(
                f"{key} = {here.get(key)}: the checkpoint was made with {there.get(key)}; "
                f"start a new run, or allow it with resume_allow=[{key}]"
            )
    if now["data"] != then["data"] and "data" not in allowed:
        raise CheckpointError(
            "data: not the data the checkpoint was made with; start a new run, "
            "or allow it with resume_allow=[data]"
        )


def facts(bench: Any) -> dict[str, Any]:
    """What a checkpoint holds of a story's Bench beside the Trainer's state, so that nothing else
    is needed to use it."""
    return {
        "trainlab": __version__,
        "config": spine.values(bench.cfg),
        "data": bench.splits.digest(),
        "environment": world.environment(bench.device),
        "preprocess": {name: t.tolist() for name, t in bench.preprocess.state().items()},
        "shape": list(bench.splits.shape),
        "classes": list(bench.splits.classes),
    }
