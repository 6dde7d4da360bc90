"""What a Trainer holds of its past steps, of R runs at once: rows still to come, history, best
weights, averages. Into a stack, cut to some of its runs, and out of it. R runs."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trainlab.errors import ConfigError
from trainlab.stack.layers import single_name
from trainlab.training.trainer import Trainer

OWN = "_extra_state"  # where each run's random stream stands: the stack has it already


def take_in(trainer: Trainer, singles: Sequence[Trainer]) -> None:
    """Give a stack's Trainer, which has not begun, what R `singles` that are at one step hold."""
    first = singles[0]
    trainer.step_count = first.step_count
    for name in ("record", "history"):
        if len({len(getattr(single, name)) for single in singles}) > 1:
            raise ConfigError(f"{name}: differs between the runs of a stack; run them one by one")
    for entries in zip(*(single.record for single in singles), strict=True):
        *columns, sizes = zip(*entries, strict=True)
        trainer.record.append((*map(torch.stack, columns), sizes[0]))
    for entries in zip(*(single.history for single in singles), strict=True):
        trainer.history.append((entries[0][0], [value for _, value in entries]))
    if first.best_value is not None:
        for name in ("best_value", "best_step"):
            setattr(trainer, name, torch.stack([getattr(single, name) for single in singles]))
        trainer.best = _together([single.best for single in singles], trainer.model.state_dict())
    if first.smoothed is not None:
        trainer.smoothed = torch.stack([single.smoothed for single in singles])
    if first.average is not None:
        weights = trainer.average.weights
        trainer.average.load_state_dict(_together([s.average.weights for s in singles], weights))


def _together(states: Sequence[dict[str, Tensor]], like: dict[str, Tensor]) -> dict[str, Tensor]:
    """R states of single models -> one with the names of the stack's."""
    return {
        name: t.clone()
        if name.endswith(OWN)
        else torch.stack([state[single_name(name)] for state in states])
        for name, t in like.items()
    }


def keep(trainer: Trainer, runs: list[int], index: Tensor) -> None:
    """Only these places from now on; the model has been cut already."""
    host = torch.tensor(runs)
    trainer.lrs = [lr[index] for lr in trainer.lrs]
    trainer._ones = None
    trainer.record = [(*(c[index] for c in row[:-1]), row[-1]) for row in trainer.record]
    trainer.history = [(step, [own[run] for run in runs]) for step, own in trainer.history]
    if trainer.best_value is not None:
        trainer.best = {name: t[index] for name, t in trainer.best.items()}
        trainer.best_value = trainer.best_value[host]
        trainer.best_step = trainer.best_step[host]
    if trainer.smoothed is not None:
        trainer.smoothed = trainer.smoothed[host]
    if trainer.average is not None:
        weights = {name: t[index] for name, t in trainer.average.weights.items()}
        trainer.change(average=trainer.average.of(trainer.model))
        trainer.average.load_state_dict(weights)


def take_out(
    trainer: Trainer,
    at: int,
    single: Trainer,
    own: Callable[[dict[str, Tensor]], dict[str, Tensor]],
) -> None:
    """Give a fresh single Trainer what the run at place `at` holds; `own` is its part of a state of
    the stack."""
    single.step_count = trainer.step_count
    single.record = [(*(c[at] for c in row[:-1]), row[-1]) for row in trainer.record]
    single.history = [(step, values[at]) for step, values in trainer.history]
    if trainer.best_value is not None:
        single.best = own(trainer.best)
        single.best_value, single.best_step = trainer.best_value[at], trainer.best_step[at]
    if trainer.smoothed is not None:
        single.smoothed = trainer.smoothed[at]
    if trainer.average is not None:
        single.average.load_state_dict(own(trainer.average.weights))
