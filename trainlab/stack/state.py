"""What a Trainer holds of its past steps, of R runs at once: rows still to come, history, best
weights, averages. Into a stack, cut to some of its runs, and out of it. R runs."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trainlab.errors import ConfigError
from trainlab.stack.layers import single_name
from trainlab.training.trainer import Progress, Trainer

OWN = "_extra_state"  # where each run's random stream stands: the stack has it already


def take_in(trainer: Trainer, singles: Sequence[Trainer]) -> None:
    """Give a stack's Trainer, which has not begun, what R `singles` that are at one step hold."""
    first = singles[0]
    for name in ("record", "history"):
        if len({len(getattr(single, name)) for single in singles}) > 1:
            raise ConfigError(f"{name}: differs between the runs of a stack; run them one by one")
    progress = Progress(first.step_count)
    for entries in zip(*(single.record for single in singles), strict=True):
        *columns, sizes = zip(*entries, strict=True)
        progress.record.append((*map(torch.stack, columns), sizes[0]))
    for entries in zip(*(single.history for single in singles), strict=True):
        progress.history.append((entries[0][0], [value for _, value in entries]))
    if first.best_value is not None:
        progress.best_value = torch.stack([single.best_value for single in singles])
        progress.best_step = torch.stack([single.best_step for single in singles])
        progress.best = _together([single.best for single in singles], trainer.model.state_dict())
    if first.smoothed is not None:
        progress.smoothed = torch.stack([single.smoothed for single in singles])
    trainer.set_progress(progress)
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
    progress = Progress(
        trainer.step_count,
        [(*(c[index] for c in row[:-1]), row[-1]) for row in trainer.record],
        [(step, [own[run] for run in runs]) for step, own in trainer.history],
    )
    if trainer.smoothed is not None:
        progress.smoothed = trainer.smoothed[host]
    if trainer.best_value is not None:
        progress.best = {name: t[index] for name, t in trainer.best.items()}
        progress.best_value, progress.best_step = trainer.best_value[host], trainer.best_step[host]
    trainer.set_progress(progress)
    trainer.change(lrs=[lr[index] for lr in trainer.lrs])
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
    progress = Progress(
        trainer.step_count,
        [(*(c[at] for c in row[:-1]), row[-1]) for row in trainer.record],
        [(step, values[at]) for step, values in trainer.history],
    )
    if trainer.smoothed is not None:
        progress.smoothed = trainer.smoothed[at]
    if trainer.best_value is not None:
        progress.best = own(trainer.best)
        progress.best_value, progress.best_step = trainer.best_value[at], trainer.best_step[at]
    single.set_progress(progress)
    if trainer.average is not None:
        single.average.load_state_dict(own(trainer.average.weights))
