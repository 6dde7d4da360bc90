"""Does the loss rise by exactly the penalty? Named by conf/preflight/."""

from functools import partial

import torch

from trainlab.checks import FAIL, PASS, SKIPPED, Fresh, Verdict
from trainlab.checks.ground import no_dropout
from trainlab.optim.penalty import l2

TRIAL = 1e-2  # where no penalty is set


def penalty(fresh: Fresh) -> Verdict:
    """Loss with the penalty - loss without = strength / 2 * sum of squares, to 1e-5.

    The right side is computed apart, in float64.
    """
    trainer, verdict = fresh(), partial(Verdict, "penalty")
    x, y = trainer.batches(0)
    if trainer.penalty is None:
        trainer.penalty = partial(l2, strength=TRIAL)
    strength = getattr(trainer.penalty, "keywords", {}).get("strength")
    if getattr(trainer.penalty, "func", None) is not l2 or strength is None:
        return verdict(SKIPPED, "the penalty is not trainlab.optim.penalty.l2")
    with no_dropout(trainer.model):
        z = trainer.model(x).detach()
    without = trainer.criterion(z, y)
    if without.requires_grad:
        return verdict(SKIPPED, "the loss has a term in the weights of its own")
    without, loss = torch.stack([without, trainer.objective(z, y)]).double().tolist()
    squares = sum(float(p.detach().double().square().sum()) for p in trainer.params)
    rise = strength / 2 * squares
    saw = f"{without:.4g} -> {loss:.4g} with penalty.l2={strength:g}"
    resolution = 4 * torch.finfo(z.dtype).eps * abs(loss)  # a difference of two rounded losses
    if abs(loss - without - rise) <= 1e-5 * rise + resolution:
        return verdict(PASS, f"{saw}, expected +{rise:.3g}", f"+{rise:.3g}")
    advice = "the penalty must reach the loss as strength / 2 * sum of squares"
    return verdict(FAIL, f"{saw}, {loss - without:+.5g}", f"+{rise:.5g}", advice)
