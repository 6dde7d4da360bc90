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
SAME = 1e-5  # relative distance below which two units are duplicates
RANK, RICH = 1.5, 3.0  # hidden rank below RANK is a collapse if the input's is above RICH
ADVICE = "init=he_normal, or init=xavier_normal"


def symmetry(fresh: Fresh) -> Verdict:
    """Look for units with the same pre-activation and the same gradient, which stay duplicates for
    ever, and for layers whose effective rank has collapsed.

    Effective rank: exp of the entropy of the normalised eigenvalues of the covariance (after Roy
    and Vetterli 2007). Healthy networks on digits have 4 to 40.
    """
    trainer, verdict = fresh(), partial(Verdict, "symmetry")
    x, y = images(trainer, IMAGES)
    with no_dropout(trainer.model):
        layers = capture(trainer.model, trainer.criterion, x, y).layers
    calls = [c for c in layers if c.function and c.grad is not None and c.out.dim() > 1]
    calls = [c for c in calls if _units(c.out).shape[1] > 1]
    if not calls:
        return verdict(SKIPPED, "no activation has more than one unit")
    if not all(c.x.isfinite().all() and c.grad.isfinite().all() for c in calls):
        return verdict(SKIPPED, "activations or gradients are not finite")
    shares = {c.name: _duplicate_share(c) for c in calls}
    ranks = {c.name: effective_rank(_units(_values(c))) for c in calls}
    most, lowest = max(shares, key=shares.get), min(ranks, key=ranks.get)
    input_rank = effective_rank(x.flatten(1))
    saw = f"{shares[most]:.0%} of the units of {most} have a duplicate; lowest effective rank "
    saw += f"{ranks[lowest]:.1f} ({lowest}), of the input {input_rank:.1f}"
    expected = f"no duplicate units, effective rank above {RANK:g}"
    if shares[most] == 1:
        dead = not next(c for c in calls if c.name == most).grad.any()
        cause = _cause(list(matrices(trainer.model).values()), dead)
        return verdict(
            FAIL, f"{saw}: they can never become different", expected, ADVICE, cause=cause
        )
    if shares[most] > 0.5:
        return verdict(WARN, saw, expected, ADVICE, cause="init.symmetric")
    if ranks[lowest] < RANK and input_rank > RICH:
        advice = f"the layers pass on a single direction: {ADVICE}, activation=relu, or norm=batch"
        return verdict(WARN, saw, expected, advice, cause="act.no_signal")
    return verdict(PASS, saw, expected)


def _cause(weights: list[Tensor], dead: bool) -> str:
    """init.zero or init.symmetric for weights that are all equal; act.dead for dead units."""
    if not any(p.any() for p in weights):
        return "init.zero"
    alike = any(p.numel() > 1 and p.min() == p.max() for p in weights[:-1])
    return "act.dead" if dead and not alike else "init.symmetric"


def _values(call: Layer) -> Tensor:
    """The pre-activation, where dead units still differ; for maxout, which has several, output."""
    return call.x if call.elementwise else call.out


def _units(values: Tensor) -> Tensor:
    """(B, U, ...) -> (n, U): positions are samples; (B, T, U) has its units last."""
    values = values.movedim(1, -1) if values.dim() > 3 else values
    rows = values.flatten(0, -2)
    return rows[:: -(-len(rows) // ROWS), :UNITS].double()


def _duplicate_share(call: Layer) -> float:
    """Share of the units that equal another one in value and in gradient."""
    same = torch.ones((), dtype=torch.bool, device=call.x.device)
    for values in (_units(_values(call)), _units(call.grad)):
        columns = values.T.contiguous()
        size = columns.norm(dim=1)
        same = same & (torch.cdist(columns, columns) <= SAME * torch.maximum(size, size[:, None]))
    return float(same.fill_diagonal_(False).any(1).double().mean())


def effective_rank(values: Tensor) -> float:
    """Effective rank of (n, U): 0 where nothing varies, at most min(n - 1, U)."""
    values = values.double() - values.double().mean(0)
    small = values if values.shape[0] >= values.shape[1] else values.T
    powers = torch.linalg.eigvalsh(small.T @ small).clamp(min=0)
    if not float(powers.sum()) > 0:
        return 0.0
    return math.exp(float(torch.special.entr(powers / powers.sum()).sum()))
