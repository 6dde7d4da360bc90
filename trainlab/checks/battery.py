"""`trainlab.check`: the checks on anybody's own torch model, without a config. B batch, K classes.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trainlab.checks import SKIPPED, Verdict, run_checks
from trainlab.checks.accumulation import accumulation
from trainlab.checks.ground import no_classes
from trainlab.checks.initial_loss import initial_loss
from trainlab.checks.input_ignored import input_ignored
from trainlab.checks.output_range import output_range
from trainlab.checks.overfit import overfit
from trainlab.checks.parameters import parameters
from trainlab.checks.penalty import penalty
from trainlab.checks.snapshot import Snapshot, has_state, keep_step, parts
from trainlab.errors import ConfigError
from trainlab.train import Trainer, evaluating
from trainlab.world import random_state, restore_random_state

BATTERY = {
    each.__name__: each
    for each in (
        initial_loss,
        penalty,
        parameters,
        overfit,
        output_range,
        input_ignored,
        accumulation,
    )
}


def check(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: Any,
    batch: tuple[Tensor, Tensor],
    step: Callable[[Tensor, Tensor], Any] | None = None,
) -> list[Verdict]:
    """The preflight checks on a model of your own: loss(model(x), y) -> scalar, batch = (x (B,
    ...), y (B,)).

    step(x, y), your own training step, is checked in place of the standard one where it is passed.
    Model, optimizer, gradients, modes, buffers and random numbers, and what `step` refers to
    (schedulers, scalers, counters), are bit for bit as before afterwards, also when it is
    interrupted. Prints nothing. Raises ConfigError for arguments that do not fit.
    """
    _check_arguments(model, loss, optimizer, batch, step)
    x, y = (t.detach().clone() for t in batch)
    states = [] if step is None else [value for value in parts(step)[2] if has_state(value)]
    random, initial = random_state(), Snapshot(model, optimizer, loss, *states)
    around = None if step is None else keep_step(step)

    def fresh() -> Trainer:
        initial.restore()
        trainer = Trainer(model, loss, optimizer, lambda position: (x.clone(), y.clone()), steps=1)
        if step is not None:
            trainer.step = step
        return trainer

    checks = dict(BATTERY)
    if step is not None:
        checks["penalty"] = lambda fresh: Verdict(
            "penalty", SKIPPED, "the step passed in makes its own loss"
        )
    try:
        with torch.enable_grad():
            _check_batch(model, loss, x, y)
            return run_checks(checks, fresh)
    finally:
        if around is not None:
            around.restore()
        initial.restore()
        restore_random_state(*random)


def _check_arguments(model: Any, loss: Any, optimizer: Any, batch: Any, step: Any) -> None:
    """Raise ConfigError where an argument is not of the kind that `check` takes."""
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model = {type(model).__name__}: must be a torch.nn.Module")
    if not callable(loss):
        raise ConfigError(
            f"loss = {type(loss).__name__}: must be callable, loss(logits, y) -> scalar"
        )
    if not hasattr(optimizer, "param_groups"):
        raise ConfigError(
            f"optimizer = {type(optimizer).__name__}: must be a torch.optim.Optimizer, not its class"
        )
    if step is not None and not callable(step):
        raise ConfigError(f"step = {type(step).__name__}: must be callable, step(x, y)")
    if (
        not isinstance(batch, tuple | list)
        or len(batch) != 2
        or not all(isinstance(t, Tensor) for t in batch)
    ):
        raise ConfigError("batch: must be a pair of tensors; pass (x, y), e.g. next(iter(loader))")
    x, y = batch
    if x.dim() < 1 or y.dim() < 1 or len(x) != len(y) or len(x) < 2:
        raise ConfigError(
            f"batch: x is {tuple(x.shape)} and y {tuple(y.shape)}; both must begin with the same B >= 2"
        )
    if not y.is_floating_point() and y.dtype != torch.int64:
        raise ConfigError(f"batch: y is {y.dtype}; class numbers must be torch.int64, use y.long()")


def _check_batch(
    model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor
) -> None:
    """Raise ConfigError where model, loss and batch do not go together."""
    with torch.no_grad(), evaluating(model):
        try:
            logits = model(x)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            line = (str(error).splitlines() or [""])[0]
            raise ConfigError(
                f"model(x) fails for x {tuple(x.shape)} {x.dtype} on {x.device}: {line}"
            ) from error
        if not no_classes(logits, y) and not (y.min() >= 0 and y.max() < logits.shape[1]):
            raise ConfigError(
                f"batch: y holds {int(y.min())} .. {int(y.max())}, the model has {logits.shape[1]} outputs; "
                f"class numbers must be 0 .. {logits.shape[1] - 1}"
            )
        value = loss(logits, y)
        if not isinstance(value, Tensor) or value.dim() > 0:
            seen = (
                f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            )
            raise ConfigError(
                f"loss(logits, y) = {seen}: must be a scalar tensor; use reduction='mean'"
            )
