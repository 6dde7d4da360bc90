"""Is the gradient that of the loss? Named by conf/preflight/."""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from trainlab.checks import FAIL, PASS, SKIPPED, Fresh, Verdict
from trainlab.checks.ground import images, no_dropout
from trainlab.taps import eager, unmoved

IMAGES, ENTRIES = 8, 32
STEP = 1e-5
WRONG = 1e-2  # CS231n notes 3: above it the gradient is probably wrong; 1e-7 is a happy one
KINK = 1e-3  # two estimates, at STEP and STEP / 4, that differ by more have a kink between them
MOST = 50_000_000  # parameters, for a copy in float64


def gradient(fresh: Fresh) -> Verdict:
    """Central differences in float64 against the gradient, relative to the larger of the two.

    At the entry of the largest gradient and at random ones, spread over all tensors. Entries whose
    estimates at two step sizes differ have a kink (relu, max pooling) within reach: left out.
    """
    trainer, verdict = fresh(), partial(Verdict, "gradient", expected=f"relative error < {WRONG:g}")
    x, y = images(trainer, IMAGES)
    if sum(p.numel() for p in trainer.params) > MOST or not x.is_floating_point():
        return verdict(SKIPPED, f"more than {MOST:,} parameters, or an input of {x.dtype}")
    try:
        model, criterion = (_doubled(part) for part in (eager(trainer.model), trainer.criterion))
        y = y.double() if y.is_floating_point() else y
        rows = _compare(model, lambda: criterion(model(x.double()), y))
    except (RuntimeError, TypeError, ValueError) as error:  # a dtype fixed inside, no deep copy
        line = (str(error).splitlines() or [""])[0]
        return verdict(SKIPPED, f"the model does not run as a copy in float64: {line}")
    smooth = [row for row in rows if abs(row[2] - row[3]) <= KINK * max(abs(row[2]), row[4])]
    if 2 * len(smooth) < len(rows):
        return verdict(SKIPPED, f"{len(rows) - len(smooth)} of {len(rows)} entries are at kinks")
    errors = {n: abs(a - b) / max(abs(a), abs(b), least) for n, a, _, b, least in smooth}
    worst = max(errors, key=errors.get, default="")
    largest = errors.get(worst, 0.0)
    saw = f"{len(smooth)} entries, largest relative error {largest:.1g}"
    saw += f" ({len(rows) - len(smooth)} at kinks left out)" if len(smooth) < len(rows) else ""
    if largest > WRONG:
        advice = "look for a backward of your own, detach, .data, or a rounding on the way there"
        return verdict(FAIL, f"{saw}, in {worst}", advice=advice)
    return verdict(PASS, saw)


def _doubled(part: Callable) -> Callable:
    """A copy in float64; a function, or a partial of one, with its tensors in float64."""
    if isinstance(part, nn.Module):
        return copy.deepcopy(part).double()
    if isinstance(part, partial):
        values = {k: v.double() if isinstance(v, Tensor) else v for k, v in part.keywords.items()}
        return partial(part.func, *part.args, **values)
    return part


def _compare(model: nn.Module, loss: Callable[[], Tensor]) -> list[tuple]:
    """(tensor, gradient, estimate at STEP, at STEP / 4, the least size that matters) of entries."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    chosen = named[:: -(-len(named) // ENTRIES)]
    with no_dropout(model):

        def value() -> Tensor:
            with unmoved(model):  # the same masks and the same statistics each time
                return loss()

        grads = torch.autograd.grad(value(), [p for _, p in chosen], allow_unused=True)
        grads = [torch.zeros_like(p) if g is None else g for (_, p), g in zip(chosen, grads)]  # noqa: B905
        least = 1e-4 * max((float(g.abs().max()) for g in grads), default=0.0) + 1e-7
        rows = []
        with torch.no_grad():
            for (name, p), grad in zip(chosen, grads, strict=True):
                flat = grad.flatten()
                more = torch.randint(flat.numel(), (ENTRIES // len(chosen) - 1,)).tolist()
                for at in {int(flat.abs().argmax()), *more}:
                    found = [_central(p.view(-1), at, h, value) for h in (STEP, STEP / 4)]
                    rows.append((name, float(flat[at]), *found, least))
    return rows


def _central(values: Tensor, at: int, step: float, loss: Callable[[], Tensor]) -> float:
    """(loss(w + step) - loss(w - step)) / (2 step) in one entry."""
    before, ends = values[at].clone(), []
    for sign in (1, -1):
        values[at] = before + sign * step
        ends.append(float(loss()))
    values[at] = before
    return (ends[0] - ends[1]) / (2 * step)
