"""Does a lower loss mean better predictions? Named by conf/check/. B batch, K classes."""

from functools import partial

import torch
from torch.nn import functional

from trainlab.checks import FAIL, PASS, SKIPPED, Fresh, Verdict
from trainlab.checks.tools import images, no_classes, no_dropout

IMAGES = 64
EXPECTED = "the gradient agrees in sign with that of cross-entropy"


def loss_sign(fresh: Fresh) -> Verdict:
    """Cosine between d loss / d outputs and that of cross-entropy, which is positive for every
    classification loss; if it is negative, gradient descent makes the right class less likely."""
    trainer, verdict = fresh(), partial(Verdict, "loss_sign", expected=EXPECTED)
    x, y = images(trainer, IMAGES)
    with torch.no_grad(), no_dropout(trainer.model):
        z = trainer.model(x)
    if reason := no_classes(z, y):
        return verdict(SKIPPED, reason)
    z = z.detach().requires_grad_()
    loss = trainer.criterion(z, y)
    losses = (loss, functional.cross_entropy(z, y))
    slopes = [torch.autograd.grad(value, z)[0] for value in losses]
    cosine = float(functional.cosine_similarity(*(s.double().flatten() for s in slopes), dim=0))
    saw = f"loss {float(loss.detach()):.3g}; cosine {cosine:.2f} with the gradient of cross-entropy"
    if cosine < 0:
        advice = "the sign of the loss is wrong: return the value to be minimised"
        return verdict(FAIL, saw, advice=advice, cause="loss.sign")
    return verdict(PASS, saw)
