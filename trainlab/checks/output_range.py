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
    """A loss that applies softmax itself needs outputs of any size and sign.

    The range is taken over several draws of all weights, so that it is a property of the
    architecture: a healthy head gives only outputs >= 0 by chance in fewer than one of 1e9 cases.
    """
    trainer = fresh()
    verdict = partial(Verdict, "output_range", expected="outputs of any size and sign (logits)")
    x, y = images(trainer, IMAGES)
    with no_dropout(trainer.model):
        z = trainer.model(x)
        if reason := no_classes(z, y):
            return verdict(SKIPPED, reason)
        if not takes_softmax(trainer.criterion, z, y):
            return verdict(PASS, "any range will do: this loss applies no softmax", expected="")
        target = functional.one_hot(y, z.shape[1]).to(z.dtype)
        outputs = []
        for _ in range(max(3, math.ceil(30 / z.shape[1]))):
            redraw(trainer.model)
            outputs.append(trainer.model(x))
    z = torch.cat(outputs).double()
    z = z[z.isfinite().all(1)]
    if not z.any():
        return verdict(SKIPPED, "with redrawn weights the outputs are all 0 or none is finite")
    low, high = z.min().item(), z.max().item()
    around = f"{low:.2g} .. {high:.2g} whatever the weights are"
    if low < -1 or (low < 0 and high > 1):
        return verdict(PASS, f"outputs reach {low:.2g} .. {high:.2g} with other weights")
    if high > 1:
        advice = "remove the activation (relu?) after the last layer"
        saw = f"no output is below 0: {around}"
        return verdict(WARN, saw, advice=advice, cause="arch.output_activation")
    best = target if low >= 0 else 2 * target - 1
    least, free = float(trainer.criterion(best, y)), float(trainer.criterion(100 * target, y))
    if least < free + 0.01:  # a margin loss may reach its floor within this range
        return verdict(PASS, f"outputs within {around}; this loss reaches its floor there")
    stuck = f"the loss cannot fall below {least:.3f}"
    if probabilities(z):
        saw = "the outputs are already probabilities (rows >= 0, sum 1); the loss applies softmax"
        advice = "remove the softmax from the model"
        return verdict(FAIL, f"{saw} again: {stuck}", advice=advice, cause="arch.double_softmax")
    advice = f"remove the activation ({'sigmoid' if low >= 0 else 'tanh'}?) after the last layer"
    saw = f"outputs within {around}: {stuck}"
    return verdict(WARN, saw, advice=advice, cause="arch.output_activation")
