"""Does the loss rise by exactly the penalty? Named by conf/check/."""

from dataclasses import asdict
from functools import partial

import torch

from trainlab.checks import FAIL, PASS, SKIPPED, Fresh, Verdict
from trainlab.checks.tools import no_dropout
from trainlab.optim.penalty import Elastic

TRIAL = 1e-2  # l2 to try where no penalty is set


def penalty(fresh: Fresh) -> Verdict:
    """Loss with the penalty - loss without = l1 * sum |w| + l2 / 2 * sum w^2, to 1e-5.

    The right side is computed separately, in float64.
    """
    trainer, verdict = fresh(), partial(Verdict, "penalty")
    x, y = trainer.batches(0)
    if trainer.penalty is None:
        trainer.change(penalty=Elastic(l2=TRIAL))
    if not isinstance(trainer.penalty, Elastic):
        return verdict(SKIPPED, "the penalty is not trainlab.optim.penalty.Elastic")
    strengths = asdict(trainer.penalty)
    with no_dropout(trainer.model):
        z = trainer.model(x).detach()
    without = trainer.criterion(z, y)
    if without.requires_grad:
        return verdict(SKIPPED, "the loss has a term of its own in the weights")
    without, loss = torch.stack([without, trainer.objective(z, y)]).double().tolist()
    weights = [p.detach().double() for p in trainer.penalised]
    sizes, squares = (sum(float((p.abs() ** n).sum()) for p in weights) for n in (1, 2))
    rise = strengths["l1"] * sizes + strengths["l2"] / 2 * squares
    given = ", ".join(f"penalty.{name}={value:g}" for name, value in strengths.items() if value)
    saw = f"{without:.4g} -> {loss:.4g} with {given}"
    resolution = 4 * torch.finfo(z.dtype).eps * abs(loss)  # a difference of two rounded losses
    if abs(loss - without - rise) <= 1e-5 * rise + resolution:
        return verdict(PASS, f"{saw}, expected +{rise:.3g}", f"+{rise:.3g}")
    advice = "the penalty must add l1 * sum |w| + l2 / 2 * sum w^2 to the loss"
    saw += f", {loss - without:+.5g}"
    return verdict(FAIL, saw, f"+{rise:.5g}", advice, cause="loss.penalty")
