"""Does the loss rise by exactly the penalty? Named by conf/preflight/."""

from functools import partial

import torch

from trainlab.checks import FAIL, PASS, SKIPPED, Fresh, Verdict
from trainlab.checks.ground import no_dropout
from trainlab.optim.penalty import l2

TRIAL = 1e-2  # tried where no penalty is set


def penalty(fresh: Fresh) -> Verdict:
    """Loss with the penalty - loss without = strength / 2 * sum of squares, computed apart in
    float64, to 1e-5.
    """
    name, trainer = "penalty", fresh()
    x, y = trainer.batches(0)
    if trainer.penalty is None:
        trainer.penalty = partial(l2, strength=TRIAL)
    strength = getattr(trainer.penalty, "keywords", {}).get("strength")
    if getattr(trainer.penalty, "func", None) is not l2 or strength is None:
        return Verdict(name, SKIPPED, "the penalty is not trainlab.optim.penalty.l2")
    with no_dropout(trainer.model):
        z = trainer.model(x).detach()
    without = trainer.criterion(z, y)
    if without.requires_grad:
        return Verdict(
            name, SKIPPED, "the loss holds a term in the weights already, besides the outputs"
        )
    without, loss = torch.stack([without, trainer.objective(z, y)]).double().tolist()
    squares = sum(float(p.detach().double().square().sum()) for p in trainer.params)
    rise = strength / 2 * squares
    saw = f"{without:.4g} -> {loss:.4g} with penalty.l2={strength:g}"
    resolution = 4 * torch.finfo(z.dtype).eps * abs(loss)  # the difference of two rounded losses
    if abs(loss - without - rise) <= 1e-5 * rise + resolution:
        return Verdict(name, PASS, f"{saw}, expected +{rise:.3g}", f"+{rise:.3g}")
    return Verdict(
        name,
        FAIL,
        f"{saw}, which is {loss - without:+.5g}",
        f"+{rise:.5g}",
        "the penalty does not reach the loss as strength / 2 * sum of squares",
    )
