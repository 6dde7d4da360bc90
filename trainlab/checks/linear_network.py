"""Is there anything nonlinear between the layers? Named by conf/preflight/."""

from functools import partial

import torch
from torch import Tensor, nn

from trainlab.checks import PASS, SKIPPED, WARN, Fresh, Verdict
from trainlab.checks.ground import images, redraw
from trainlab.train import evaluating

IMAGES, DRAWS = 64, 2
CLOSE = 1e-4  # relative, of float32 arithmetic


@torch.no_grad()
def linear_network(fresh: Fresh) -> Verdict:
    """f(a + b) - f(a) - f(b) + f(0) is 0 for all a and b only where f is linear but for a constant.

    In evaluation mode, with weights drawn anew, so that it is a property of the network's form and
    not of weights so small that any activation is nearly linear.
    """
    trainer, verdict = fresh(), partial(Verdict, "linear_network")
    model, (x, _) = trainer.model, images(trainer, IMAGES)
    deep = [p for p in model.parameters() if p.dim() > 1]
    if not x.is_floating_point() or len(x) < 2:
        return verdict(SKIPPED, f"the input is {x.dtype} {tuple(x.shape)}, not a float batch")
    expected = "nonlinear, if it has more than one layer"
    with evaluating(model):
        excess = 0.0
        for _ in range(DRAWS):
            redraw(model)
            excess = max(excess, _excess(model, x))
    if excess != excess:
        return verdict(SKIPPED, "outputs are not finite under redrawn weights")
    if excess > CLOSE:
        return verdict(PASS, f"nonlinear: not additive by {excess:.2g} of its size", expected)
    if len(deep) < 2:
        return verdict(PASS, "a linear model: one layer", expected)
    saw = f"{len(deep)} layers of weights, together one linear model: additive to {excess:.1g}"
    return verdict(WARN, saw, expected, "activation=relu, or model=linear if it is meant")


def _excess(model: nn.Module, x: Tensor) -> float:
    """The part of the outputs that does not add up, relative to their change with the input."""
    a, b = x, x.roll(1, 0)
    at = [model(each).double() for each in (a + b, a, b, torch.zeros_like(a))]
    change = (at[1] - at[3]).norm() + (at[2] - at[3]).norm()
    return float((at[0] - at[1] - at[2] + at[3]).norm() / change.clamp(min=1e-30))
