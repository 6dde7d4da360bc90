"""Is there anything nonlinear between the layers? Named by conf/check/."""

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
CLOSE = 1e-4  # relative, of float32 arithmetic


@torch.no_grad()
def linear_network(fresh: Fresh) -> Verdict:
    """f(a + b) - f(a) - f(b) + f(0) is 0 for all a and b only where f is linear but for a constant.

    In evaluation mode, with weights drawn anew, so that it is a property of the network's form and
    not of weights so small that any activation is nearly linear. Max pooling, which is no
    activation, is tried as the mean of the same windows.
    """
    trainer, verdict = fresh(), partial(Verdict, "linear_network")
    model, (x, _) = trainer.model, images(trainer, IMAGES)
    deep = len(matrices(model))
    if not x.is_floating_point() or len(x) < 2:
        return verdict(SKIPPED, f"the input is {x.dtype} {tuple(x.shape)}, not a float batch")
    expected = "nonlinear, if it has more than one layer"
    with evaluating(model):
        excess, pools = _excess(model, x), 0
        if excess > CLOSE:
            with _mean_pooling(model) as pools:
                excess = _excess(model, x) if pools else excess
    if not math.isfinite(excess):
        return verdict(SKIPPED, "outputs are not finite under redrawn weights")
    if excess > CLOSE:
        return verdict(PASS, f"nonlinear: not additive by {excess:.2g} of its size", expected)
    if deep < 2:
        return verdict(PASS, "a linear model: one layer", expected)
    saw = f"{deep} layers of weights, together one linear model"
    saw += f" but for max pooling ({pools} times)" if pools else ""
    advice = "activation=relu, or model=linear if it is meant"
    saw += f": additive to {excess:.1g}"
    return verdict(WARN, saw, expected, advice, cause="arch.linear")


def _excess(model: nn.Module, x: Tensor) -> float:
    """The part of the outputs that does not add up, relative to their change with the input."""
    a, b = x, x.roll(1, 0)
    found = 0.0
    for _ in range(DRAWS):
        redraw(model)
        both, one, other, zero = (
            model(each).double() for each in (a + b, a, b, torch.zeros_like(a))
        )
        change = (one - zero).norm() + (other - zero).norm()
        excess = (both - one - other + zero).norm() / change.clamp(min=1e-30)
        found = max(found, float(excess.nan_to_num(nan=math.inf)))
    return found


@contextlib.contextmanager
def _mean_pooling(model: nn.Module) -> Iterator[int]:
    """Every nn.MaxPool2d as the mean of its windows; gives how many there are."""
    held = [(m, n, c) for m in model.modules() for n, c in m.named_children()]
    held = [each for each in held if isinstance(each[2], nn.MaxPool2d)]
    try:
        for module, name, pool in held:
            mean = nn.AvgPool2d(pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode)
            setattr(module, name, mean.eval())
        yield len(held)
    finally:
        for module, name, pool in held:
            setattr(module, name, pool)
