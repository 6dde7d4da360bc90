"""Which weights are the best so far: those of the evaluation whose `monitor` was best, for each run
of a stack its own. The earlier of two that are alike stays. R runs."""

from typing import Any

import torch
from torch import Tensor


def keep_best(trainer: Any, value: Tensor) -> None:
    """Copy the weights into `trainer.best` where `value`, () or (R,), is lower than any before."""
    if trainer.best_value is None:
        trainer.best_value = torch.full_like(value, float("inf"))
        trainer.best_step = torch.zeros_like(value, dtype=torch.int64)
        trainer.best = {name: t.detach().clone() for name, t in trainer.model.state_dict().items()}
    better = value < trainer.best_value
    trainer.best_value = torch.where(better, value, trainer.best_value)
    trainer.best_step = torch.where(better, trainer.step_count, trainer.best_step)
    if not better.any():
        return
    here = better.to(next(iter(trainer.best.values())).device)
    for name, now in trainer.model.state_dict().items():
        best = trainer.best[name]
        torch.where(per_run(here, now), now.detach(), best, out=best)


def per_run(values: Tensor, like: Tensor) -> Tensor:
    """() or (R,) -> a shape that multiplies `like`, (...) or (R, ...), run by run."""
    return values.reshape(values.shape + (1,) * (like.dim() - values.dim()))
