"""Is there a nonlinearity between the layers? Named by conf/check/."""

import contextlib
import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from trainlab.checks import PASS, SKIPPED, WARN, Fresh, Verdict
from trainlab.checks.tools import images, redraw
from trainlab.training.modules import matrices
from trainlab.training.trainer import evaluating

IMAGES, DRAWS = 64, 2
CLOSE = 1e-4  # relative error of float32 arithmetic


@torch.no_grad()
def linear_network(fresh: Fresh) -> Verdict:
    """f(a + b) - f(a) - f(b) + f(0) is 0 for all a and b only where f is linear plus a constant.

    Measured in evaluation mode with redrawn weights, so that it is a property of the architecture:
    under tiny weights every activation is nearly linear. Max pooling, which is no activation, is
    replaced by average pooling.
    """
    trainer, verdict = fresh(), partial(Verdict, "linear_network")
    model, (x, _) = trainer.model, images(trainer, IMAGES)
    deep = len(matrices(model))
    if not x.is_floating_point() or len(x) < 2:
        return verdict(SKIPPED, f"the input is {x.dtype} {tuple(x.shape)}, not a float batch")
    expected = "nonlinear where there is more than one layer"
    with evaluating(model):
        excess, pools = _excess(model, x), 0
        if excess > CLOSE:
            with _mean_pooling(model) as pools:
                excess = _excess(model, x) if pools else excess
    if not math.isfinite(excess):
        return verdict(SKIPPED, "outputs are not finite under redrawn weights")
    if excess > CLOSE:
        return verdict(PASS, f"nonlinear: {excess:.2g} of the output is not additive", expected)
    if deep < 2:
        return verdict(PASS, "a linear model of one layer", expected)
    saw = f"{deep} layers of weights form one linear model"
    saw += f", max pooling aside ({pools} times)" if pools else ""
    advice = "activation=relu, or model=linear if a linear model is intended"
    saw += f": only {excess:.1g} of the output is not additive"
    return verdict(WARN, saw, expected, advice, cause="arch.linear")


def _excess(model: nn.Module, x: Tensor) -> float:
    """The non-additive part of the outputs, relative to their change with the input."""
    a, b = x, x.roll(1, 0)
    largest = 0.0
    for _ in range(DRAWS):
        redraw(model)
        both, one, other, zero = (
            model(inputs).double() for inputs in (a + b, a, b, torch.zeros_like(a))
        )
        change = (one - zero).norm() + (other - zero).norm()
        excess = (both - one - other + zero).norm() / change.clamp(min=1e-30)
        largest = max(largest, float(excess.nan_to_num(nan=math.inf)))
    return largest


@contextlib.contextmanager
def _mean_pooling(model: nn.Module) -> Iterator[int]:
    """Replace every nn.MaxPool2d by average pooling of the same windows; yields their number."""
    pools = []
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.MaxPool2d):
                pools.append((module, name, child))
    try:
        for module, name, pool in pools:
            mean = nn.AvgPool2d(pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode)
            setattr(module, name, mean.eval())
        yield len(pools)
    finally:
        for module, name, pool in pools:
            setattr(module, name, pool)
