"""Statistics of activations. Named by conf/probe/. B batch, F features, C channels, U units.

A unit is one entry of dimension 1: a feature of (B, F), a channel of (B, C, H, W).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trainlab.taps import Histogram, Layer, Sight, eager, histogram, single, taps, unmoved

SATURATED = 0.05  # |f'| below this share of its maximum: tanh at |x| > 2.18, sigmoid at |x| > 4.36
ENOUGH = 1024  # samples that tell a dead unit: one that is active for 1 in 300 is missed by 3 %
USUAL = 4.0  # the |x| that count where |f'| grows without end
_flat_below: dict[tuple, Tensor] = {}


def activation(sight: Sight) -> dict[str, Tensor | Histogram]:
    """Mean, std over all elements (pooled), std of each unit over the samples and then averaged,
    the shares of saturated and of zero elements (0 to 1), and a histogram.

    Standard deviations divide by n. Saturation: Glorot and Bengio 2010; |f'| comes from the
    recorded call itself, so every elementwise function has it.
    """
    seen: dict[str, Tensor | Histogram] = {}
    for layer in sight.layers:
        mean, std, unit_std = moments(layer.out)
        seen[f"activation_mean/{layer.name}"] = mean
        seen[f"activation_std/{layer.name}"] = std
        seen[f"activation_unit_std/{layer.name}"] = unit_std
        seen[f"activation/{layer.name}"] = histogram(layer.out)
    calls = [layer for layer in sight.layers if layer.elementwise]
    for layer, share in zip(calls, saturated(calls), strict=True):
        seen[f"activation_saturated/{layer.name}"] = share.mean(dtype=torch.float32)
        seen[f"activation_zero/{layer.name}"] = 1 - layer.out.count_nonzero() / layer.out.numel()
    return seen


def moments(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, U, ...) -> mean, pooled std, mean over the units of their std; two passes, because
    E[x^2] - E[x]^2 is wrong where |mean| / std is large."""
    values = single(values)
    means = values.mean(samples(values), keepdim=True)  # (1, U, 1, ...)
    variances = (values - means).square_().mean(samples(values))  # (U,)
    pooled = variances.mean() + means.var(correction=0)  # within the units, between them
    return means.mean(), pooled.sqrt_(), variances.sqrt_().mean()


def samples(values: Tensor, runs: bool = False) -> list[int]:
    """The dimensions of (B, U, ...) that are not the units; of (R, B, U, ...) neither the runs."""
    kept = (0, 2) if runs else (1,)
    return [d for d in range(values.dim()) if d not in kept]


def slopes(functions: list[Callable[[Tensor], Tensor]], inputs: list[Tensor]) -> list[Tensor]:
    """|f'(x)| of each elementwise f at each of its inputs, by one backward pass."""
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in inputs]
        outs = [f(x.clone()) for f, x in zip(functions, inputs, strict=True)]  # f may work in place
        ones = [torch.ones_like(out) for out in outs]
        return [slope.abs_() for slope in torch.autograd.grad(outs, inputs, ones)]


def saturated(calls: list[Layer]) -> list[Tensor]:
    """Where the slope of each call is below 5 % of the largest it can have; a nan input is not."""
    if not calls:
        return []
    steep = slopes([layer.again for layer in calls], [layer.x for layer in calls])
    return [s < flat_below(layer) for layer, s in zip(calls, steep, strict=True)]


def flat_below(layer: Layer) -> Tensor:
    """5 % of max |f'|, (), over a grid from -1490 to 1490 that is 0.004 fine at 0; remembered
    unless f has tensors of its own, as PReLU. Of an f' that grows without end (relu_squared) the
    maximum over |x| <= 4."""
    x = layer.x
    learned = any(isinstance(value, Tensor) for value in (*layer.args, *layer.kwargs.values()))
    key = (layer.function, layer.args, *layer.kwargs.items(), x.dtype, x.device)
    if learned or key not in _flat_below:
        grid = torch.linspace(-8, 8, 4001, device=x.device, dtype=x.dtype).sinh_()
        size = grid.abs()
        if learned and x.dim() > 1:
            grid = grid[:, None].expand(-1, x.shape[1])
        steep = slopes([layer.again], [grid])[0]
        top = steep.amax()
        grows = top > 1.5 * steep[size < 700].amax()
        limit = SATURATED * torch.where(grows, steep[size <= USUAL].amax(), top)
        if learned:
            return limit
        _flat_below[key] = limit
    return _flat_below[key]


@torch.no_grad()
def dead(model: nn.Module, batches: Any, runs: bool = False) -> dict[str, Any]:
    """Share of dead units of each activation over one pass, or its first ENOUGH samples: saturated
    on every sample, in evaluation mode.

    `batches(step)` for step < `batches.per_epoch` gives x (B, ...) and y. Modes, buffers and random
    streams are left as they were. A layer that is not finite has nan. One transfer to the host.
    """
    model = eager(model)
    modes = [(module, module.training) for module in model.modules()]
    stuck: dict[str, Tensor] = {}  # (U,) each
    finite: dict[str, Tensor] = {}
    try:
        model.eval()
        with unmoved(model):
            seen = 0
            for step in range(batches.per_epoch):
                if seen >= ENOUGH:
                    break
                x = batches(step)[0]
                seen += x.shape[int(runs)]
                with taps(model) as layers:
                    model(x)
                calls = [layer for layer in layers if layer.elementwise]
                for layer, flat in zip(calls, saturated(calls), strict=True):
                    name, out = layer.name, layer.out.isfinite()
                    units = flat.all(samples(flat, runs))
                    stuck[name] = units & stuck.get(name, True)
                    finite[name] = out.flatten(int(runs)).all(-1) & finite.get(name, True)
    finally:
        for module, mode in modes:
            module.training = mode
    shares = [torch.where(finite[name], u.float().mean(-1), torch.nan) for name, u in stuck.items()]
    return dict(zip(stuck, torch.stack(shares).tolist() if shares else [], strict=True))
