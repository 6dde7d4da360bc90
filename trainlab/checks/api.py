"""`trainlab.check`: the checks on any torch model, without a config. B batch."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trainlab.checks import SKIPPED, Verdict, run_checks
from trainlab.checks.snapshot import Snapshot, Step
from trainlab.checks.tools import no_classes
from trainlab.config import words
from trainlab.config.build import Door
from trainlab.errors import ConfigError
from trainlab.training.randomness import random_state, restore_random_state
from trainlab.training.trainer import Extras, Trainer, evaluating


def check(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: Any,
    batch: tuple[Tensor, Tensor],
    step: Callable[[Tensor, Tensor], Any] | None = None,
) -> list[Verdict]:
    """Run the preflight checks on your own model: batch is x (B, ...), y (B,), loss(logits, y) ().

    step(x, y) is your own training step, checked instead of the standard one. Afterwards, even
    after an interrupt, everything is restored bit for bit: model, optimizer, gradients, modes,
    buffers, random state, and whatever `step` refers to (schedulers, scalers, counters). Prints
    nothing. Raises ConfigError for arguments that do not fit.
    """
    _check_arguments(model, loss, optimizer, batch, step)
    x, y = (t.detach().clone() for t in batch)
    random, around = random_state(), None if step is None else Step(step)
    initial = Snapshot(model, optimizer, loss, *(around.states if around else ()))
    door, checks = Door(), {}
    for word, part in words.parts("check").items():
        if part.get("own_model"):
            judges = step is None or part.get("own_step")
            checks[word] = door(words.node(part)) if judges else functools.partial(_no_step, word)

    extras = Extras(step=step or functools.partial(_plain_step, model, loss, optimizer))

    def fresh() -> Trainer:
        initial.restore()
        return Trainer(
            model, loss, optimizer, lambda position: (x.clone(), y.clone()), 1, extras=extras
        )

    with contextlib.ExitStack() as undo, torch.enable_grad():
        undo.callback(restore_random_state, *random)
        undo.callback(initial.restore)
        if around is not None:
            undo.callback(around.restore)
        _check_batch(model, loss, x, y)
        return run_checks(checks, fresh)


def _plain_step(model: nn.Module, loss: Callable, optimizer: Any, x: Tensor, y: Tensor) -> None:
    """The standard step, for targets of any kind."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(model(x), y)
        value.backward()
        return value

    optimizer.step(closure)


def _no_step(word: str, fresh: Callable[[], Trainer]) -> Verdict:
    return Verdict(word, SKIPPED, "the step that was passed computes its own loss")


def _check_arguments(model: Any, loss: Any, optimizer: Any, batch: Any, step: Any) -> None:
    """Raise ConfigError for an argument of the wrong kind."""
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model = {type(model).__name__}: must be a torch.nn.Module")
    if not callable(loss):
        raise ConfigError(f"loss = {type(loss).__name__}: must be callable, loss(logits, y)")
    if isinstance(optimizer, type) or not hasattr(optimizer, "param_groups"):
        raise ConfigError(f"optimizer = {optimizer}: must be an object of a torch.optim class")
    if step is not None and not callable(step):
        raise ConfigError(f"step = {type(step).__name__}: must be callable, step(x, y)")
    pair = isinstance(batch, tuple | list) and len(batch) == 2
    if not pair or not all(isinstance(t, Tensor) for t in batch):
        raise ConfigError("batch: must be a pair of tensors (x, y), e.g. next(iter(loader))")
    x, y = batch
    if x.dim() < 1 or y.dim() < 1 or len(x) != len(y) or len(x) < 2:
        raise ConfigError(
            f"batch: x is {tuple(x.shape)}, y {tuple(y.shape)}; both must start with one B >= 2"
        )
    if not y.is_floating_point() and y.dtype != torch.int64:
        raise ConfigError(f"batch: y is {y.dtype}; class numbers must be torch.int64: y.long()")


def _check_batch(
    model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor
) -> None:
    """Raise ConfigError where model, loss and batch do not fit together."""
    with torch.no_grad(), evaluating(model):
        try:
            logits = model(x)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            line = (str(error).splitlines() or [""])[0]
            raise ConfigError(
                f"model(x) fails for x {tuple(x.shape)} {x.dtype} on {x.device}: {line}"
            ) from error
        if not no_classes(logits, y) and (y.min() < 0 or y.max() >= logits.shape[1]):
            raise ConfigError(
                f"batch: y holds {int(y.min())} .. {int(y.max())}, the model has "
                f"{logits.shape[1]} outputs; class numbers must be 0 .. {logits.shape[1] - 1}"
            )
        try:
            value = loss(logits, y)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            line = (str(error).splitlines() or [""])[0]
            text = f"loss(logits, y) fails for y {tuple(y.shape)} {y.dtype}: {line}"
            raise ConfigError(text) from error
        if not isinstance(value, Tensor) or value.dim() > 0:
            result = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ConfigError(
                f"loss(logits, y) = {result}: must be a 0-d tensor; use reduction='mean'"
            )
