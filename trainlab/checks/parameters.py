"""Can every trainable tensor learn? Named by conf/preflight/."""

from collections import Counter

import torch
from torch import Tensor

from trainlab.checks import FAIL, PASS, WARN, Fresh, Verdict
from trainlab.train import Trainer

TRIES = 8  # a step function may warm up from lr 0, accumulate gradients, or skip a layer at random


def parameters(fresh: Fresh) -> Verdict:
    """Every trainable tensor has a gradient, is in exactly one optimizer group, and moves where its
    gradient is not 0.

    Frozen tensors (requires_grad=False) and groups at lr 0 are left alone.
    """
    name = "parameters"
    trainer = fresh()
    named = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    if not named:
        return Verdict(
            name, FAIL, "no trainable tensor", "at least one", "set requires_grad", stops=True
        )
    held = Counter(id(p) for group in trainer.optimizer.param_groups for p in group["params"])
    outside = [n for n, p in named.items() if not held[id(p)]]
    twice = [n for n, p in named.items() if held[id(p)] > 1]
    stray = len(held.keys() - {id(p) for p in trainer.model.parameters()})
    without, zero = _gradients(trainer, named)
    expected = "each of them with a gradient, in one optimizer group, moved by a step"
    if outside:
        more = f"; the optimizer holds {stray} tensors that are not the model's" if stray else ""
        return Verdict(
            name,
            FAIL,
            f"not in the optimizer: {_names(outside)}{more}",
            expected,
            "build the optimizer from model.parameters(), after the last layer is in place",
            stops=True,
        )
    if without:
        return Verdict(
            name,
            FAIL,
            f"no gradient reaches {_names(without)}",
            expected,
            "use them in forward without detach, or set requires_grad=False",
            stops=True,
        )
    if twice:
        return Verdict(
            name,
            FAIL,
            f"more than once in the optimizer: {_names(twice)}",
            expected,
            "list them once",
        )
    if zero:
        return Verdict(
            name,
            WARN,
            f"gradient 0 everywhere in {_names(zero)}",
            expected,
            "init=he_normal or init=xavier_normal (all zeros, or every unit dead)",
        )
    still = _still(fresh)
    if not still:
        return Verdict(
            name, PASS, f"{len(named)} trainable tensors have a gradient and move", expected
        )
    if len(still) == len(named):
        return Verdict(
            name,
            FAIL,
            f"nothing moves in {TRIES} steps",
            expected,
            "optim.lr > 0, and optimizer.step()",
        )
    return Verdict(
        name,
        WARN,
        f"{_names(still)} did not move in {TRIES} steps",
        expected,
        "the update is below the resolution of the weights: raise optim.lr, or norm=batch",
    )


def _gradients(trainer: Trainer, named: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    """Names without a gradient, and names whose gradient is 0 everywhere, over up to TRIES batches.
    """
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


def _still(fresh: Fresh) -> list[str]:
    """Names of the trainable tensors that up to TRIES steps leave bit for bit as they were."""
    trainer = fresh()
    trainer.model.train()
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
    for step in range(TRIES):
        trainer.step(*trainer.batches(step))
        now = dict(trainer.model.named_parameters())
        moved = torch.stack([(now[n] != p).any() for n, p in before.items()]).tolist()
        if all(moved):
            return []
    off = {
        id(p) for g in trainer.optimizer.param_groups if float(g["lr"]) == 0 for p in g["params"]
    }
    still = [n for n, m in zip(before, moved, strict=True) if not m]
    return still if len(still) == len(before) else [n for n in still if id(now[n]) not in off]


def _names(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
