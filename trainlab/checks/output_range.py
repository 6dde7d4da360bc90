"""Can the outputs be logits? Named by conf/check/. B batch, K classes."""

import math
from functools import partial

import torch
from torch.nn import functional

from trainlab.checks import FAIL, PASS, SKIPPED, WARN, Fresh, Verdict
from trainlab.checks.tools import (
    images,
    no_classes,
    no_dropout,
    probabilities,
    redraw,
    takes_softmax,
)

IMAGES = 64


@torch.no_grad()
def output_range(fresh: Fresh) -> Verdict:
    """A loss that takes softmax itself wants outputs of any size and sign.

    The range is looked at under several draws of all weights, so that it is a property of the
    network's form: a healthy head comes out all >= 0 by chance in fewer than one of 1e9 cases.
    """
    trainer = fresh()
    verdict = partial(Verdict, "output_range", expected="outputs of any size and sign (logits)")
    x, y = images(trainer, IMAGES)
    with no_dropout(trainer.model):
        z = trainer.model(x)
        if reason := no_classes(z, y):
            return verdict(SKIPPED, reason)
        if not takes_softmax(trainer.criterion, z, y):
            return verdict(PASS, "any range: this loss takes no softmax of its own", expected="")
        target = functional.one_hot(y, z.shape[1]).to(z.dtype)
        seen = []
        for _ in range(max(3, math.ceil(30 / z.shape[1]))):
            redraw(trainer.model)
            seen.append(trainer.model(x))
    z = torch.cat(seen).double()
    z = z[z.isfinite().all(1)]
    if not z.any():
        return verdict(SKIPPED, "outputs all 0, or none finite, under redrawn weights")
    low, high = z.min().item(), z.max().item()
    around = f"{low:.2g} .. {high:.2g} whatever the weights"
    if low < -1 or (low < 0 and high > 1):
        return verdict(PASS, f"outputs reach {low:.2g} .. {high:.2g} with other weights")
    if high > 1:
        advice = "remove the activation (relu?) after the last layer"
        saw = f"no output is below 0: {around}"
        return verdict(WARN, saw, advice=advice, cause="arch.output_activation")
    best = target if low >= 0 else 2 * target - 1
    least, free = float(trainer.criterion(best, y)), float(trainer.criterion(100 * target, y))
    if least < free + 0.01:  # a margin loss may have its floor inside
        return verdict(PASS, f"outputs within {around}, where this loss has its floor")
    stuck = f"the loss cannot fall below {least:.3f}"
    if probabilities(z):
        saw = "the outputs are probabilities already (rows >= 0, sum 1), and the loss takes softmax"
        advice = "remove the softmax from the model"
        return verdict(FAIL, f"{saw} again: {stuck}", advice=advice, cause="arch.double_softmax")
    advice = f"remove the activation ({'sigmoid' if low >= 0 else 'tanh'}?) after the last layer"
    saw = f"outputs within {around}: {stuck}"
    return verdict(WARN, saw, advice=advice, cause="arch.output_activation")
