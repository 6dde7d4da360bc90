"""Does backward() compute the gradient of the loss? Named by conf/check/."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainlab.checks import FAIL, PASS, SKIPPED, Fresh, Verdict
from trainlab.checks.tools import images, no_dropout
from trainlab.observe.capture import eager, unmoved

IMAGES, ENTRIES = 8, 32
STEP = 1e-5
WRONG = 1e-2  # CS231n notes 3: above it the gradient is probably wrong, 1e-7 is fine
KINK = 1e-3  # relative; right and left slopes that differ by more have a kink between them
MOST = 50_000_000  # parameters, for a copy in float64


def gradient(fresh: Fresh) -> Verdict:
    """Compare the gradient with central differences in float64; errors are relative to the larger.

    Tried are the entry with the largest gradient and random ones, spread over all tensors. Entries
    whose right and left slopes differ are left out: a kink (relu, max pooling) is within reach.
    """
    trainer, verdict = fresh(), partial(Verdict, "gradient", expected=f"relative error < {WRONG:g}")
    x, y = images(trainer, IMAGES)
    if sum(p.numel() for p in trainer.params) > MOST or not x.is_floating_point():
        return verdict(SKIPPED, f"more than {MOST:,} parameters, or inputs of dtype {x.dtype}")
    try:
        model, criterion = (_doubled(part) for part in (eager(trainer.model), trainer.criterion))
        y = y.double() if y.is_floating_point() else y
        rows = _compare(model, lambda: criterion(model(x.double()), y))
    except (
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:  # e.g. a hard-coded dtype, or no deep copy
        line = (str(error).splitlines() or [""])[0]
        return verdict(SKIPPED, f"the model does not run as a copy in float64: {line}")
    smooth = [row for row in rows if abs(row[2] - row[3]) <= KINK * max(abs(row[2]), row[4])]
    if 2 * len(smooth) < len(rows):
        return verdict(SKIPPED, f"{len(rows) - len(smooth)} of {len(rows)} entries are at kinks")
    errors: dict[str, float] = {}
    for name, slope, right, left, least in smooth:
        central = (right + left) / 2
        error = abs(slope - central) / max(abs(slope), abs(central), least)
        errors[name] = max(error, errors.get(name, 0.0))
    worst = max(errors, key=errors.get, default="")
    largest = errors.get(worst, 0.0)
    saw = f"{len(smooth)} entries, largest relative error {largest:.1g}"
    saw += f" ({len(rows) - len(smooth)} at kinks left out)" if len(smooth) < len(rows) else ""
    if largest > WRONG:
        advice = "look for a custom backward, detach, .data or rounding on the way to that tensor"
        saw = f"{saw}, in {worst}"
        return verdict(FAIL, saw, advice=advice, cause="graph.wrong_gradient")
    return verdict(PASS, saw)


def _doubled(part: Callable) -> Callable:
    """A copy in float64; a function, or a partial of one, with its tensors in float64."""
    if isinstance(part, nn.Module):
        return copy.deepcopy(part).double()
    if isinstance(part, partial):  # of the door or the user; its fields are documented
        values = {k: v.double() if isinstance(v, Tensor) else v for k, v in part.keywords.items()}
        return partial(part.func, *part.args, **values)
    return part


def _compare(model: nn.Module, loss: Callable[[], Tensor]) -> list[tuple]:
    """Of each entry: tensor, gradient, right slope, left slope, size below which it is noise."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    chosen = named[:: -(-len(named) // ENTRIES)]
    per_tensor = ENTRIES // len(chosen) - 1
    random = [torch.randint(p.numel(), (per_tensor,)).tolist() for _, p in chosen]
    rows = []

    def value(*inputs: Tensor) -> Any:
        with unmoved(model):  # the same masks and the same statistics each time
            result = loss()
            if not inputs:
                return result.detach()
            return torch.autograd.grad(result, inputs, allow_unused=True)

    with no_dropout(model):
        here, grads = float(value()), value(*(p for _, p in chosen))
        largest = max(float(g.abs().max()) for g in grads if g is not None)
        for (name, p), grad, more in zip(chosen, grads, random, strict=True):
            flat = torch.zeros_like(p).flatten() if grad is None else grad.flatten()
            for at in sorted({int(flat.abs().argmax()), *more}):
                right, left = _slopes(p.detach().view(-1), at, here, value)
                rows.append((name, float(flat[at]), right, left, 1e-4 * largest + 1e-7))
    return rows


@torch.no_grad()
def _slopes(
    values: Tensor, at: int, here: float, loss: Callable[[], Tensor]
) -> tuple[float, float]:
    """Right and left difference quotient of the loss in one entry, over STEP."""
    before, ends = values[at].clone(), []
    for sign in (1, -1):
        values[at] = before + sign * STEP
        ends.append((float(loss()) - here) / (sign * STEP))
    values[at] = before
    return ends[0], ends[1]
