"""Do the hidden units differ? Named by conf/check/. B batch, U units, L activation calls."""

import math
from functools import partial

import torch
from torch import Tensor

from trainlab.checks import FAIL, PASS, SKIPPED, WARN, Fresh, Verdict
from trainlab.checks.tools import images, no_dropout
from trainlab.observe.capture import Layer, capture
from trainlab.training.modules import matrices

IMAGES, UNITS, ROWS = 128, 512, 2048  # at most
SAME = 1e-5  # relative distance of twins
RANK, RICH = 1.5, 3.0  # a hidden rank below the first is a collapse, if the input has the second
ADVICE = "init=he_normal, or init=xavier_normal"


def symmetry(fresh: Fresh) -> Verdict:
    """Units that enter their activation with the same values and get the same gradient stay twins
    for ever; and the rank that is left of the inputs in each hidden layer.

    Effective rank: exp of the entropy of the squared singular values of the centred values (Roy and
    Vetterli 2007, here of the covariance). Healthy networks on digits have 4 to 40.
    """
    trainer, verdict = fresh(), partial(Verdict, "symmetry")
    x, y = images(trainer, IMAGES)
    with no_dropout(trainer.model):
        layers = capture(trainer.model, trainer.criterion, x, y).layers
    calls = [c for c in layers if c.function and c.grad is not None and c.out.dim() > 1]
    calls = [c for c in calls if _units(c.out).shape[1] > 1]
    if not calls:
        return verdict(SKIPPED, "the model calls no activation on more than one unit")
    if not all(c.x.isfinite().all() and c.grad.isfinite().all() for c in calls):
        return verdict(SKIPPED, "activations or gradients are not finite")
    twins = {c.name: _twins(c) for c in calls}
    ranks = {c.name: effective_rank(_units(_values(c))) for c in calls}
    most, lowest = max(twins, key=twins.get), min(ranks, key=ranks.get)
    rich = effective_rank(x.flatten(1))
    saw = f"{twins[most]:.0%} of the units of {most} have a twin; lowest effective rank "
    saw += f"{ranks[lowest]:.1f} ({lowest}), of the input {rich:.1f}"
    expected = f"no twins, a rank above {RANK:g}"
    if twins[most] == 1:
        dead = not next(c for c in calls if c.name == most).grad.any()
        cause = _cause(list(matrices(trainer.model).values()), dead)
        return verdict(FAIL, f"{saw}: they can never differ", expected, ADVICE, cause=cause)
    if twins[most] > 0.5:
        return verdict(WARN, saw, expected, ADVICE, cause="init.symmetric")
    if ranks[lowest] < RANK and rich > RICH:
        advice = f"the layers pass one direction on: {ADVICE}, activation=relu, or norm=batch"
        return verdict(WARN, saw, expected, advice, cause="act.no_signal")
    return verdict(PASS, saw, expected)


def _cause(weights: list[Tensor], dead: bool) -> str:
    """Weights that are one number each, or units that differ and are off alike."""
    if not any(p.any() for p in weights):
        return "init.zero"
    alike = any(p.numel() > 1 and p.min() == p.max() for p in weights[:-1])
    return "act.dead" if dead and not alike else "init.symmetric"


def _values(call: Layer) -> Tensor:
    """What entered, where dead units still differ; maxout takes several, so what came out."""
    return call.x if call.elementwise else call.out


def _units(values: Tensor) -> Tensor:
    """(B, U, ...) -> (n, U): positions are samples; (B, T, U) has its units last."""
    values = values.movedim(1, -1) if values.dim() > 3 else values
    rows = values.flatten(0, -2)
    return rows[:: -(-len(rows) // ROWS), :UNITS].double()


def _twins(call: Layer) -> float:
    """Share of the units that another one equals, in value and in gradient."""
    same = torch.ones((), dtype=torch.bool, device=call.x.device)
    for values in (_units(_values(call)), _units(call.grad)):
        columns = values.T.contiguous()
        size = columns.norm(dim=1)
        same = same & (torch.cdist(columns, columns) <= SAME * torch.maximum(size, size[:, None]))
    return float(same.fill_diagonal_(False).any(1).double().mean())


def effective_rank(values: Tensor) -> float:
    """Of (n, U): 0 where nothing varies, at most min(n - 1, U)."""
    values = values.double() - values.double().mean(0)
    small = values if values.shape[0] >= values.shape[1] else values.T
    powers = torch.linalg.eigvalsh(small.T @ small).clamp(min=0)
    if not float(powers.sum()) > 0:
        return 0.0
    return math.exp(float(torch.special.entr(powers / powers.sum()).sum()))
