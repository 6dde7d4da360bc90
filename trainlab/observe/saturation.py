"""When is an activation saturated? Where the size of its slope is below 5 % of the largest it can
have (Glorot and Bengio 2010 look for such units): tanh at |x| > 2.18, sigmoid at |x| > 4.36.

The slope is that of the recorded layer itself, so that every elementwise function has it. Probes,
dead units and what the doctor's rules read all come from here. B batch, C channels
or features, L layers, R runs, N points of a grid.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainlab.observe.capture import Layer
from trainlab.observe.statistics import small, stacked_tensors

SATURATED = 0.05  # of the largest slope
USUAL = 4.0  # the |x| that count where the slope grows without end
WIDE = 3.2  # std of inputs at which tanh is flat for half of them
REACH, POINTS = 8, 4001  # a grid is sinh(u) of so many equal steps of u from -REACH to REACH
MOST = 256  # functions remembered
_remembered: dict[tuple, "Slope"] = {}


class Slope(NamedTuple):
    """What the slope of a function is like, () each. Of a stack's layer with tensors of its own it
    is (R,), and `limit` has the shape (R, 1, ...) that compares with slopes at its input."""

    limit: Tensor  # 5 % of the largest |f'|
    sides: Tensor  # on how many sides it is flat from some |x| on: 1 of relu, 2 of tanh, 0 of sin
    usual: Tensor  # share of the inputs of N(0, 1) at which it is flat
    wide: Tensor  # the same of N(0, WIDE^2)


def slopes(functions: list[Callable[[Tensor], Tensor]], inputs: list[Tensor]) -> list[Tensor]:
    """|f'(x)| of each elementwise f at each of its inputs, by one backward pass."""
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in inputs]
        outs = [f(x.clone()) for f, x in zip(functions, inputs, strict=True)]  # f may work in place
        ones = [torch.ones_like(out) for out in outs]
        return [slope.abs_() for slope in torch.autograd.grad(outs, inputs, ones)]


def saturated(calls: list[Layer], runs: int | None = None) -> list[tuple[list[Layer], Tensor]]:
    """Where each elementwise layer is saturated, (L, R, B, ...) of the layers of one function and
    shape; a nan input is not."""
    groups: dict[Any, list[Layer]] = {}
    for layer in calls:
        same = layer.same_as
        alone = same is None or not small(layer.x, runs)
        key = layer.name if alone else (same, layer.x.dtype, layer.x.device, layer.x.shape)
        groups.setdefault(key, []).append(layer)
    if not groups:
        return []
    first = [group[0] for group in groups.values()]
    inputs = [
        layer.x if layer.same_as is None else stacked_tensors([each.x for each in group], runs)
        for layer, group in zip(first, groups.values(), strict=True)
    ]
    steep = slopes([layer.again for layer in first], inputs)
    found = []
    for layer, group, size in zip(first, groups.values(), steep, strict=True):
        flat = size < limit_of(layer, runs)
        found.append((group, flat if layer.same_as is not None else stacked_tensors([flat], runs)))
    return found


def limit_of(layer: Layer, runs: int | None = None) -> Tensor:
    """The size of the slope below which a layer is saturated, as in its `Slope`."""
    if layer.remembered_as is not None:
        return slope_of(layer, runs).limit
    limit = _limit(_on_grid(layer, _points(layer), runs))  # at every look: leave out the rest
    return _of_input(limit, layer) if runs is not None else limit[0]


def slope_of(layer: Layer, runs: int | None = None) -> Slope:
    """What the slope of a layer's function is like. It is remembered where it cannot change."""
    fixed = layer.remembered_as
    key = (fixed, layer.x.dtype, layer.x.device)
    if fixed is not None and key in _remembered:
        return _remembered[key]
    points = _points(layer)
    limit, *shares = _measured(points, _on_grid(layer, points, runs))
    if fixed is None and runs is not None:  # each run's own
        return Slope(_of_input(limit, layer), *shares)
    slope = Slope(limit[0], *(figure[0] for figure in shares))
    if fixed is not None:
        if len(_remembered) >= MOST:  # settings that change from step to step
            _remembered.clear()
        _remembered[key] = slope
    return slope


def _points(layer: Layer) -> Tensor:
    """A grid (N,) from -1490 to 1490 that is 0.004 fine at 0."""
    x = layer.x
    return torch.linspace(-REACH, REACH, POINTS, device=x.device, dtype=x.dtype).sinh_()


def _within(size: float) -> slice:
    """The places of a grid's points at |x| < size."""
    out = math.ceil((REACH - math.asinh(size)) / (2 * REACH) * (POINTS - 1))
    return slice(out, POINTS - out)


def _of_input(limit: Tensor, layer: Layer) -> Tensor:
    """(R,) -> (R, 1, ...), as the layer's input has it."""
    return limit.view(-1, *[1] * (layer.x.dim() - 1))


def _on_grid(layer: Layer, points: Tensor, runs: int | None) -> Tensor:
    """|f'| at the points (N,), (R, N, C): of each run, where a stack's function is each run's own,
    and of each channel."""
    if layer.same_as is not None:
        return slopes([layer.again], [points])[0].view(1, -1, 1)
    lead = [] if runs is None else [runs]
    sample = layer.x.shape[len(lead) + 1 :]  # it is called in the shape that it was called in
    few = [*sample[:1], *[1] * (len(sample) - 1)]  # one number a channel, where it takes that
    column = points.view(-1, *[1] * len(sample))
    with torch.no_grad():
        two = column[:2].expand(*lead, 2, *few)
        taken = few if layer.again(two.clone()).shape == two.shape else sample
    steep = slopes([layer.again], [column.expand(*lead, len(points), *taken)])[0]
    return steep.reshape(runs or 1, len(points), -1)


def _limit(steep: Tensor) -> Tensor:
    """5 % of the largest of slopes (R, N, C), (R,). Some overflow far out; of a slope that grows
    without end (relu squared) it is the largest for usual inputs."""
    most = steep.nan_to_num(0.0, 0.0, 0.0).amax(2)  # (R, N)
    top, inner = most.amax(1), most[:, _within(700)].amax(1)
    return SATURATED * torch.where(top > 1.5 * inner, most[:, _within(USUAL)].amax(1), top)


def _measured(points: Tensor, steep: Tensor) -> Slope:
    """The figures, (R,) each, of slopes (R, N, C) at points (N,)."""
    limit, finite, size = _limit(steep), steep.isfinite(), points.abs()[:, None]
    flat = ~finite | (steep < limit[:, None, None])
    sides = torch.zeros_like(limit)
    for side in (points < 0, points > 0):
        known = finite & side[:, None]
        reach = torch.where(known, size, 0).amax(1, keepdim=True)
        outer = known & (size > reach / 2)
        sides += (flat | ~outer).all(1).to(sides.dtype).mean(1)
    return Slope(limit, sides, _share(points, flat, 1.0), _share(points, flat, WIDE))


def _share(points: Tensor, flat: Tensor, std: float) -> Tensor:
    """The share of the inputs of N(0, std^2) at which it is `flat` (R, N, C), (R,)."""
    x = points.double()
    # the points are sinh(u) of equal steps of u: density(x) dx / du
    density = torch.exp(-(x / std).square() / 2) * (1 + x.square()).sqrt()
    return (flat * (density / density.sum())[:, None]).sum(1).mean(1).to(points.dtype)
