"""The story of a single run, paused where it trains, so that others can be opened beside it."""

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from trainlab.experiment import regularisation
from trainlab.experiment.checkpointer import Checkpointer
from trainlab.experiment.phases import Bench, Ready
from trainlab.training import randomness
from trainlab.training.trainer import Every, Trainer, Watch


@dataclass
class PausedRun:
    """A run of `phases` at the place where it trains."""

    phases: Iterator[Ready]
    trainer: Trainer
    every: Every
    watch: Watch
    bench: Bench
    checkpointer: Checkpointer
    random: Any  # where the global random streams stand, which others are opened after

    @classmethod
    def at_fit(cls, phases: Iterator[Ready]) -> "PausedRun":
        with silent():
            return cls(phases, **vars(next(phases)), random=randomness.random_state())

    def end(self, error: BaseException | None = None) -> Any:
        """Tell the rest: the summary, or the exception that ends it."""
        try:
            with silent():
                next(self.phases) if error is None else self.phases.throw(error)
        except StopIteration as end:
            return end.value
        except Exception as raised:
            return raised
        raise RuntimeError("the story trains twice")

    def stream(self) -> torch.Generator:
        """The dropout stream of the run."""
        stream = torch.Generator()
        stream.set_state(self.random[0]["rng.torch"])
        return stream

    def alone(self) -> Any:
        randomness.restore_random_state(*self.random)
        try:
            with silent():
                self.trainer.fit(self.every, self.watch)
        except Exception as error:
            return self.end(error)
        return self.end()


def forward_of(cfg: Any, compiled: bool) -> Callable | None:
    """What calls the stack's model for runs of this precision, and `compiled`; None is the model
    itself. A stack lays its maps out in its own way, and Stack refuses another."""
    if cfg.channels_last or (cfg.precision == "fp32" and not compiled):
        return None
    return partial(
        regularisation.forward, precision=cfg.precision, compiled=compiled, channels_last=False
    )


def silent() -> contextlib.AbstractContextManager:
    """A story of many prints nothing."""
    return contextlib.redirect_stdout(io.StringIO())
