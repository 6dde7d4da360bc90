"""Statistics of activations. Named by conf/probe/. B batch, F features, C channels, U units.

A unit is one entry of dimension 1: a feature of (B, F), a channel of (B, C, H, W).
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from trainlab.observe.capture import StepRecord, eager, recorded_layers, unmoved
from trainlab.observe.saturation import saturated, slope_of
from trainlab.observe.statistics import (
    Seen,
    alike,
    histograms,
    measures_all_runs,
    stacked_tensors,
    tags,
)
from trainlab.training.trainer import evaluating

ENOUGH = 1024  # samples that tell a dead unit: one that is active for 1 in 300 is missed by 3 %
BLOCK = 2**17  # elements of the input that go through the network at a time


@measures_all_runs
def activation(record: StepRecord) -> Seen:
    """Mean, std over all elements (pooled), std of each unit over the samples and then averaged,
    the shares of saturated and of zero elements (0 to 1), and a histogram.

    Standard deviations divide by n. Saturation: see observe/saturation.py. At the first step also
    what the layer's function is like: on how many sides it is flat, and for what share of usual
    and of wide inputs, so that a rule needs to know no activation.
    """
    seen: Seen = {}
    calls = [layer for layer in record.layers if layer.elementwise]
    for layers in calls, [layer for layer in record.layers if not layer.elementwise]:
        outs = alike({layer.name: layer.out for layer in layers}, record.runs)
        for names, values in outs:
            figures = moments(values)
            for statistic, figure in zip(("mean", "std", "unit_std"), figures, strict=True):
                seen[tags(f"activation_{statistic}", names)] = figure
            if layers is calls:
                seen[tags("activation_zero", names)] = share(values == 0)
        seen |= histograms("activation", outs)
    for group, flat in saturated(calls, record.runs):
        names = [layer.name for layer in group]
        seen[tags("activation_saturated", names)] = share(flat)
        if record.at == 0:
            slope = slope_of(group[0], record.runs)
            for fact in ("sides", "usual", "wide"):
                each = getattr(slope, fact).expand(len(names), record.runs or 1)
                seen[tags(f"activation_flat_{fact}", names)] = each
    return seen


def share(true: Tensor) -> Tensor:
    """(L, R, ...) -> (L, R)."""
    found = count(true, tuple(range(2, true.dim())))
    return found / (true.numel() / found.numel())


def count(true: Tensor, over: tuple[int, ...]) -> Tensor:
    return true.sum(over, dtype=torch.int32)  # int64 takes thrice the time


def samples(values: Tensor) -> tuple[int, ...]:
    """The dimensions of (L, R, B, U, ...) that are summed over for a unit."""
    return tuple(d for d in range(2, values.dim()) if d != 3)


def moments(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(L, R, B, U, ...) -> mean, pooled std, mean over the units of their std, (L, R) each; two
    passes, because E[x^2] - E[x]^2 is wrong where |mean| / std is large."""
    values = values.unsqueeze(-1)  # (L, R, B) is of one unit
    over = samples(values)
    means = values.mean(over, keepdim=True)  # (L, R, 1, U, 1, ...)
    variances = (values - means).square_().mean(over)  # (L, R, U)
    means = means.flatten(2)
    pooled = variances.mean(2) + means.var(2, correction=0)  # within the units, between them
    return means.mean(2), pooled.sqrt_(), variances.sqrt_().mean(2)


@torch.no_grad()
def dead(model: nn.Module, batches: Any, runs: bool = False) -> dict[str, Any]:
    """Share of dead units of each activation over one pass, or its first ENOUGH samples: saturated
    on every sample, in evaluation mode. The pass ends where every unit was seen alive.

    `batches(step)` for step < `batches.per_epoch` gives x (B, ...) and y. Modes, buffers and random
    streams are left as they were. A layer that is not finite has nan.
    """
    model = eager(model)
    stuck: dict[tuple[str, ...], Tensor] = {}  # (L, R, U) each
    finite: dict[tuple[str, ...], Tensor] = {}  # (L, R)
    with evaluating(model), unmoved(model):
        for x in blocks(batches, int(runs)):
            with recorded_layers(model) as layers:
                model(x)
            calls = [layer for layer in layers if layer.elementwise]
            for group, flat in saturated(calls, len(x) if runs else None):
                names = tuple(layer.name for layer in group)
                flat = flat.unsqueeze(-1)
                found = count(flat, samples(flat))
                units = found == flat.numel() // found.numel()
                outs = stacked_tensors([layer.out for layer in group], len(x) if runs else None)
                over = tuple(range(2, outs.dim()))
                bounded = (outs.amax(over) - outs.amin(over)).isfinite()
                stuck[names] = units & stuck.get(names, True)
                finite[names] = bounded & finite.get(names, True)
            if not any(bool(units.any()) for units in stuck.values()):
                break
    shares = [
        torch.where(finite[n], units.float().mean(2), torch.nan) for n, units in stuck.items()
    ]
    host = torch.cat(shares).tolist() if shares else []
    names = [name for names in stuck for name in names]
    return {n: s if runs else s[0] for n, s in sorted(zip(names, host, strict=True))}


def blocks(batches: Any, axis: int) -> Iterator[Tensor]:
    """x of the first ENOUGH samples, in parts of about BLOCK elements a run, which stay in the
    cache with all that comes of them."""
    left = ENOUGH
    for step in range(batches.per_epoch):
        x = batches(step)[0]
        few = max(BLOCK // x[(0,) * (axis + 1)].numel(), 1)
        yield from x.split(few, axis)
        left -= x.shape[axis]
        if left <= 0:
            break
