"""Does every trainable parameter get a gradient and move? Named by conf/check/."""

from collections import Counter
from functools import partial

import torch
from torch import Tensor

from trainlab.checks import FAIL, PASS, WARN, Fresh, Verdict
from trainlab.training.modules import is_matrix
from trainlab.training.trainer import Trainer

STILL = "loop.param_not_updated"
TINY = 1e-6  # of the largest weight: a smaller lr * gradient is lost in float32
TRIES = 8  # steps: lr may start at 0, gradients may accumulate, a network may skip layers


def parameters(fresh: Fresh) -> Verdict:
    """Every trainable parameter has a gradient, is in one optimizer group, and moves with it.

    Frozen parameters (requires_grad=False) and groups with lr 0 are not judged.
    """
    expected = "each parameter has a gradient, is in one optimizer group, and moves in a step"
    trainer, verdict = fresh(), partial(Verdict, "parameters", expected=expected)
    named = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    if not named:
        return verdict(
            FAIL, "no trainable parameter", advice="set requires_grad=True", stops=True, cause=STILL
        )
    held = Counter(id(p) for group in trainer.optimizer.param_groups for p in group["params"])
    if outside := [n for n, p in named.items() if not held[id(p)]]:
        stray = len(set(held) - {id(p) for p in trainer.model.parameters()} - set(map(id, named)))
        saw = f"not in the optimizer: {_names(outside)}"
        saw += f"; it holds {stray} tensors of another model" if stray else ""
        advice = "build the optimizer from model.parameters() after the last layer is added"
        return verdict(FAIL, saw, advice=advice, stops=True, cause=STILL)
    without, zero = _gradients(trainer, named)
    if without:
        advice = "use them in forward() without detach, or set requires_grad=False"
        saw = f"no gradient in {_names(without)}"
        return verdict(FAIL, saw, advice=advice, stops=True, cause=STILL)
    if twice := [n for n, p in named.items() if held[id(p)] > 1]:
        saw = f"in the optimizer more than once: {_names(twice)}"
        return verdict(FAIL, saw, advice="list each tensor once", cause="loop.listed_twice")
    if zero:  # upstream of a head or branch initialised at 0 on purpose it is 0 for one step
        later = _later(fresh)
        empty = [n for n in zero if is_matrix(named[n]) and named[n].abs().max() < 1e-30]
        zero = [n for n in zero if n in later or n in empty]
    if zero:
        advice = "all weights 0, or every unit dead: init=he_normal or init=xavier_normal"
        blank = all(not p.any() for p in named.values() if is_matrix(p))
        dead = not all(is_matrix(named[n]) for n in zero)  # a dead layer: its bias has none either
        cause = "init.zero" if blank else "act.dead" if dead else ""
        saw = f"gradient exactly 0 in all of {_names(zero)}"
        return verdict(WARN, saw, advice=advice, cause=cause)
    still = _still(fresh)
    if len(still) == len(named):
        saw = f"no parameter moves in {TRIES} steps"
        advice = "set optim.lr above 0 and call optimizer.step() in every step"
        return verdict(FAIL, saw, advice=advice, cause=STILL)
    if still and not any(is_matrix(named[n]) for n in still):
        saw = f"{len(named)} trainable parameters have a gradient and move, except {_names(still)}"
        return verdict(PASS, f"{saw}: no effect, like a bias before batch norm")
    if still:
        advice = (
            "updates are below the float resolution of the weights: raise optim.lr, or norm=batch"
        )
        saw = f"did not move in {TRIES} steps: {_names(still)}"
        lr = max(map(float, trainer.lrs))
        tiny = all(lr * named[n].grad.abs().max() < TINY * named[n].abs().max() for n in still)
        return verdict(WARN, saw, advice=advice, cause="optim.lr_low" if tiny else STILL)
    return verdict(PASS, f"{len(named)} trainable parameters have a gradient and move")


def _gradients(trainer: Trainer, named: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    """Names without a gradient, and names whose gradient is 0 everywhere, over TRIES batches."""
    trainer.model.train()
    for p in named.values():
        p.grad = None
    for step in range(TRIES):
        x, y = trainer.batches(step)
        loss = trainer.criterion(trainer.model(x), y)
        if loss.requires_grad:
            loss.backward()
        without = [n for n, p in named.items() if p.grad is None]
        zero = [n for n, p in named.items() if p.grad is not None and not p.grad.any()]
        if not without and not zero:
            break
    return without, zero


def _later(fresh: Fresh) -> list[str]:
    """Names of the parameters whose gradient is 0 everywhere after TRIES steps."""
    trainer = fresh()
    trainer.model.train()
    for step in range(TRIES):
        trainer.step(*trainer.batches(step))
    named = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    return _gradients(trainer, named)[1]


def _still(fresh: Fresh) -> list[str]:
    """Names of the trainable parameters that TRIES steps leave unchanged bit for bit."""
    trainer = fresh()
    trainer.model.train()
    now = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    before = {n: p.detach().clone() for n, p in now.items()}
    for step in range(TRIES):
        trainer.step(*trainer.batches(step))
        moved = torch.stack([(now[n] != p).any() for n, p in before.items()]).tolist()
        if all(moved):
            return []
    still = [n for n, m in zip(before, moved, strict=True) if not m]
    groups = [g for g in trainer.optimizer.param_groups if float(g["lr"]) == 0]
    off = {id(p) for group in groups for p in group["params"]}
    return still if len(still) == len(now) else [n for n in still if id(now[n]) not in off]


def _names(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
