"""What survives of a run: saved while it trains, and taken up again bit for bit."""

import sys
import time
from pathlib import Path
from typing import Any

from trainlab import __version__
from trainlab.config import keys
from trainlab.errors import MachineError
from trainlab.observe.metrics_log import Log
from trainlab.storage import checkpoint, run_folder
from trainlab.training import randomness
from trainlab.training.trainer import Trainer

FAILURES = 3  # saves in a row that may fail, the last of them included


class Checkpointer:
    """Writes the checkpoints of one run, and stops it when a signal asks.

    facts: what a checkpoint must hold beside the Trainer's state: config, data digest,
    environment, preprocessing, ...
    """

    def __init__(
        self, directory: Path, facts: dict[str, Any], seconds: float, status: run_folder.Status
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

    def totals(self) -> dict[str, Any]:
        """What summary.json says of it."""
        return {"seconds": self.elapsed(), "resumes": self.resumes}

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
            print(
                f"trainlab: warning: step {trainer.step_count}: {error}; trying again",
                file=sys.stderr,
            )

    def save_now(self, trainer: Trainer) -> None:
        """The state of this step, durable when it returns. Raises NonFiniteError rather than save
        bad weights, MachineError when it cannot be written."""
        if trainer.step_count == self.saved_at:
            return
        begun = time.monotonic()
        tensors, numbers = checkpoint.state_of(trainer)
        randoms, random_numbers = randomness.random_state()
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
        checkpoint.save(folder, trainer.step_count, tensors | randoms, *best, facts)
        self.saved_at, self.saved_when = trainer.step_count, time.monotonic()
        self.cost = self.saved_when - begun

    def go_on(self, saved: Any) -> int:
        """Count on from a checkpoint; bytes of metrics.jsonl it stands on."""
        self.saved_at = saved.step
        self.begun -= saved.facts["elapsed_seconds"]
        self.resumes = saved.facts["resumes"] + 1
        return saved.facts["metrics_bytes"]

    def pauses(self, trainer: Trainer) -> bool:
        """Whether this is the step of `pause_at`; a run that has ended does not pause."""
        at = run_folder.pause_step(self.facts["config"]["pause_at"], trainer.steps)
        return trainer.step_count == at and not trainer.ended()

    def after(self, flag: run_folder.Flag, trainer: Trainer) -> None:
        """Asked after every step: stop when a signal came or at `pause_at`, save when the time is
        up; saving takes at most 2 % of it."""
        self.status.step = trainer.step_count
        if flag.raised is not None or self.pauses(trainer):
            self.save_now(trainer)
            raise run_folder.stop_error(flag.raised, trainer.step_count)
        if time.monotonic() - self.saved_when > max(self.seconds, self.cost * 50):
            self.save(trainer)


def checkpoint_facts(bench: Any) -> dict[str, Any]:
    """What a checkpoint holds of a story's Bench beside the Trainer's state, so that nothing else
    is needed to use it."""
    return {
        "trainlab": __version__,
        "config": keys.values(bench.cfg),
        "data": bench.splits.digest(),
        "environment": randomness.environment(bench.device),
        "preprocess": bench.preprocess.manifest_entry(),
        "shape": list(bench.shape),
        "classes": list(bench.splits.classes),
    }
