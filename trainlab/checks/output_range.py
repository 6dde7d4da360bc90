"""Can the outputs be logits? Named by conf/preflight/. B batch, K classes."""

import math

import torch
from torch.nn import functional

from trainlab.checks import FAIL, PASS, SKIPPED, WARN, Fresh, Verdict
from trainlab.checks.ground import no_classes, no_dropout, probabilities, redraw, takes_softmax

IMAGES = 64


@torch.no_grad()
def output_range(fresh: Fresh) -> Verdict:
    """A loss that takes softmax itself wants outputs of any size and sign.

    The range is looked at under several draws of all weights, so that it is a property of the
    network's form: a healthy head comes out all >= 0 by chance in fewer than one of 1e9 cases.
    """
    name, trainer = "output_range", fresh()
    x, y = (t[:IMAGES] for t in trainer.batches(0))
    with no_dropout(trainer.model):
        z = trainer.model(x)
        if reason := no_classes(z, y):
            return Verdict(name, SKIPPED, reason)
        classes = z.shape[1]
        if not takes_softmax(trainer.criterion, y, classes):
            return Verdict(
                name,
                PASS,
                "this loss does not take softmax itself",
                "outputs as the loss wants them",
            )
        seen = []
        for _ in range(max(3, math.ceil(30 / classes))):
            redraw(trainer.model)
            seen.append(trainer.model(x))
    z = torch.cat(seen).double()
    z = z[z.isfinite().all(1)]
    expected = "outputs of any size and sign (logits)"
    if not len(z) or not z.any():
        return Verdict(name, SKIPPED, "the outputs are not finite, or all 0, under redrawn weights")
    target = functional.one_hot(y, classes).to(seen[0].dtype)
    low, high = z.min().item(), z.max().item()
    if probabilities(z):
        least = float(trainer.criterion(target, y))
        return Verdict(
            name,
            FAIL,
            "the outputs are probabilities already (rows >= 0, sum 1) and the loss takes softmax "
            f"again: it cannot fall below {least:.3f}",
            expected,
            "remove the softmax at the end of the model",
        )
    if low < -1 or high > 1:
        if low >= 0:
            return Verdict(
                name,
                WARN,
                f"no output is below 0 whatever the weights ({low:.2g} .. {high:.2g})",
                expected,
                "remove the activation (relu?) after the last layer",
            )
        return Verdict(
            name,
            PASS,
            f"outputs of any sign, {low:.2g} .. {high:.2g} under redrawn weights",
            expected,
        )
    bound = "0 .. 1 (sigmoid?)" if low >= 0 else "-1 .. 1 (tanh?)"
    best = target if low >= 0 else 2 * target - 1
    least, free = float(trainer.criterion(best, y)), float(trainer.criterion(100 * target, y))
    if least < free + 0.01:
        return Verdict(
            name, PASS, f"outputs within {bound}, where this loss has its floor", expected
        )
    return Verdict(
        name,
        WARN,
        f"the outputs stay within {bound} whatever the weights: the loss cannot fall below "
        f"{least:.3f}",
        expected,
        "remove the activation after the last layer",
    )
