"""Does the input help, and which accuracy does guessing reach? Named by conf/check/."""

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from trainlab.checks import PASS, SKIPPED, WARN, Fresh, Verdict
from trainlab.checks.tools import images, no_classes, no_dropout
from trainlab.training.trainer import Trainer

IMAGES, BATCH, STEPS, EVERY = 256, 64, 200, 20
MARGIN = 0.02  # of the loss without input
WARM = 0.2  # of the lr: below it the schedule is still warming up


def baselines(fresh: Fresh) -> Verdict:
    """Train on the inputs and on zeros (Karpathy 2019: input-independent baseline).

    From zeros only the class shares can be learned. The check passes as soon as the loss with the
    inputs is below the best loss without; the share of the largest class is the accuracy to beat.
    """
    verdict = partial(Verdict, "baselines", expected="a lower loss with the inputs than with zeros")
    blank = fresh()
    x, y = images(blank, IMAGES)
    with torch.no_grad(), no_dropout(blank.model):
        if reason := no_classes(blank.model(x), y):
            return verdict(SKIPPED, reason)
    labels = getattr(blank.validation, "y", y)
    share = float(labels.bincount().max() / len(labels))
    figure = f"accuracy to beat: {share:.1%}, the share of the largest class"
    blank.steps = max(blank.steps, 4 * STEPS)
    factor = max(blank.schedule(step, blank.steps) for step in range(STEPS))
    if factor < WARM:
        return verdict(
            SKIPPED, f"warm-up: lr is at {factor:.0%} of its value after {STEPS} steps; {figure}"
        )
    floor = min(loss for loss in _losses(blank, torch.zeros_like(x), y) if loss == loss)
    trainer = fresh()
    for steps, loss in enumerate(_losses(trainer, x, y)):
        saw = f"loss {loss:.3g} after {steps * EVERY} steps with the inputs, at best {floor:.3g} "
        saw += f"with zeros; {figure}"
        if steps and loss < (1 - MARGIN) * floor:
            return verdict(PASS, saw)
        if not math.isfinite(loss):
            advice = f"optim.lr={float(trainer.lrs[0]) / 10:g}"
            return verdict(WARN, saw, advice=advice, cause="optim.lr_high")
    advice = "lr too low or too high, a vanishing signal, or random labels: "
    advice += "see profile, overfit and label_shift first"
    return verdict(WARN, saw, advice=advice, cause="fit.at_chance")


def _losses(trainer: Trainer, x: Tensor, y: Tensor) -> Iterator[float]:
    """The loss on x, y, dropout off, before the first of STEPS steps and after every EVERY-th."""
    trainer.change(steps=max(trainer.steps, 4 * STEPS))  # a short schedule would reach lr 0
    parts = list(zip(x.split(BATCH), y.split(BATCH), strict=True))
    for step in range(STEPS + 1):
        if step % EVERY == 0:
            with torch.no_grad(), no_dropout(trainer.model):
                yield float(trainer.criterion(trainer.model(x), y))
            trainer.model.train()
        trainer.step(*parts[step % len(parts)])
