"""Checkpoints of a run: saved while it trains, restored bit for bit."""

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
    """Writes the checkpoints of one run, and stops the run after a signal or at `pause_at`.

    facts: what a checkpoint holds besides the Trainer's state: config, data digest,
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
        """Seconds of training, including earlier starts of this run."""
        return time.monotonic() - self.begun

    def totals(self) -> dict[str, Any]:
        """The checkpointer's entries in summary.json."""
        return {"seconds": self.elapsed(), "resumes": self.resumes}

    def save(self, trainer: Trainer) -> None:
        """As `save_now`, but a temporarily full disk does not end the run: it tries again when the
        next checkpoint is due, up to FAILURES failures in a row, and not at the end of the run."""
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
        """Save the state of this step; it is on the disk when this returns. Raises NonFiniteError
        instead of saving bad weights, MachineError when it cannot write."""
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

    def resume(self, saved: Any) -> int:
        """Continue the counts of a checkpoint. Returns the length of metrics.jsonl at that step."""
        self.saved_at = saved.step
        self.begun -= saved.facts["elapsed_seconds"]
        self.resumes = saved.facts["resumes"] + 1
        return saved.facts["metrics_bytes"]

    def pauses(self, trainer: Trainer) -> bool:
        """Whether to pause at this step (`pause_at`); a run that has ended does not pause."""
        at = run_folder.pause_step(self.facts["config"]["pause_at"], trainer.steps)
        return trainer.step_count == at and not trainer.ended()

    def after(self, flag: run_folder.Flag, trainer: Trainer) -> None:
        """Called after every step: stop after a signal or at `pause_at`; save every `seconds`, and
        less often where saving would take more than 2 % of the time."""
        self.status.step = trainer.step_count
        if flag.raised is not None or self.pauses(trainer):
            self.save_now(trainer)
            raise run_folder.stop_error(flag.raised, trainer.step_count)
        if time.monotonic() - self.saved_when > max(self.seconds, self.cost * 50):
            self.save(trainer)


def checkpoint_facts(bench: Any) -> dict[str, Any]:
    """What a checkpoint holds of a Bench besides the Trainer's state, so that it can be used on its
    own."""
    return {
        "trainlab": __version__,
        "config": keys.values(bench.cfg),
        "data": bench.splits.digest(),
        "environment": randomness.environment(bench.device),
        "preprocess": bench.preprocess.manifest_entry(),
        "shape": list(bench.shape),
        "classes": list(bench.splits.classes),
    }
