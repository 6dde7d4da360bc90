"""Statistics of activations. Named by conf/probe/. B batch, F features, C channels, U units.

A unit is one entry of dimension 1: a feature of (B, F), a channel of (B, C, H, W).
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from trainlab.observe.capture import Layer, StepRecord, eager, recorded_layers, unmoved
from trainlab.observe.statistics import (
    Seen,
    alike,
    histograms,
    measures_all_runs,
    small,
    stacked_tensors,
    tags,
)
from trainlab.training.trainer import evaluating

SATURATED = 0.05  # |f'| below this share of its maximum: tanh at |x| > 2.18, sigmoid at |x| > 4.36
ENOUGH = 1024  # samples that tell a dead unit: one that is active for 1 in 300 is missed by 3 %
BLOCK = 2**17  # elements of the input that go through the network at a time
USUAL = 4.0  # the |x| that count where |f'| grows without end
_flat_below: dict[tuple, Tensor] = {}


@measures_all_runs
def activation(record: StepRecord) -> Seen:
    """Mean, std over all elements (pooled), std of each unit over the samples and then averaged,
    the shares of saturated and of zero elements (0 to 1), and a histogram.

    Standard deviations divide by n. Saturation: Glorot and Bengio 2010; |f'| comes from the
    recorded call itself, so every elementwise function has it.
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
        seen[tags("activation_saturated", [layer.name for layer in group])] = share(flat)
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


def slopes(functions: list[Callable[[Tensor], Tensor]], inputs: list[Tensor]) -> list[Tensor]:
    """|f'(x)| of each elementwise f at each of its inputs, by one backward pass."""
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in inputs]
        outs = [f(x.clone()) for f, x in zip(functions, inputs, strict=True)]  # f may work in place
        ones = [torch.ones_like(out) for out in outs]
        return [slope.abs_() for slope in torch.autograd.grad(outs, inputs, ones)]


def saturated(calls: list[Layer], runs: int | None = None) -> list[tuple[list[Layer], Tensor]]:
    """Where the slope of each call is below 5 % of the largest it can have, (L, R, B, ...) of the
    calls of one function and shape; a nan input is not."""
    groups: dict[Any, list[Layer]] = {}
    own = {layer.name for layer in calls if learned(layer)}
    for layer in calls:
        alone = layer.name in own or not small(layer.x, runs)
        groups.setdefault(layer.name if alone else (*kind(layer), layer.x.shape), []).append(layer)
    if not groups:
        return []
    first = [group[0] for group in groups.values()]
    inputs = [
        layer.x if layer.name in own else stacked_tensors([each.x for each in group], runs)
        for layer, group in zip(first, groups.values(), strict=True)
    ]
    steep = slopes([layer.again for layer in first], inputs)
    found = []
    for layer, group, slope in zip(first, groups.values(), steep, strict=True):
        flat = slope < flat_below(layer)
        found.append((group, stacked_tensors([flat], runs) if layer.name in own else flat))
    return found


def learned(layer: Layer) -> bool:
    """Whether the call has tensors of its own, as PReLU: these want the shape they were called
    with."""
    return any(isinstance(value, Tensor) for value in (*layer.args, *layer.kwargs.values()))


def kind(layer: Layer) -> tuple[Any, ...]:
    return layer.function, layer.args, *layer.kwargs.items(), layer.x.dtype, layer.x.device


def flat_below(layer: Layer) -> Tensor:
    """5 % of max |f'|, (), over a grid from -1490 to 1490 that is 0.004 fine at 0; remembered
    unless f has tensors of its own, as PReLU. Of an f' that grows without end (relu_squared) the
    maximum over |x| <= 4."""
    x = layer.x
    own = learned(layer)
    key = None if own else kind(layer)
    if own or key not in _flat_below:
        grid = torch.linspace(-8, 8, 4001, device=x.device, dtype=x.dtype).sinh_()
        size = grid.abs()
        if own and x.dim() > 1:
            grid = grid[:, None].expand(-1, x.shape[1])
        steep = slopes([layer.again], [grid])[0]
        top = steep.amax()
        grows = top > 1.5 * steep[size < 700].amax()
        limit = SATURATED * torch.where(grows, steep[size <= USUAL].amax(), top)
        if own:
            return limit
        _flat_below[key] = limit
    return _flat_below[key]


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
