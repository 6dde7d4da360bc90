"""Does the input help, and which accuracy counts for nothing? Named by conf/preflight/."""

import math
from functools import partial

import torch
from torch import Tensor

from trainlab.checks import PASS, SKIPPED, WARN, Fresh, Verdict
from trainlab.checks.ground import images, no_classes, no_dropout
from trainlab.train import Trainer

IMAGES, BATCH, STEPS, EVERY = 256, 64, 200, 20
MARGIN = 0.02  # of the loss without input
WARM = 0.2  # of the lr: below it the schedule is still warming up


def baselines(fresh: Fresh) -> Verdict:
    """The same steps with the training inputs and with zeros in their place (Karpathy 2019).

    Zeros leave only the shares of the classes to learn. It passes as soon as the loss with input is
    below the one without; the share of the largest class is the accuracy to beat.
    """
    real, blank, verdict = fresh(), fresh(), partial(Verdict, "baselines")
    for trainer in (real, blank):
        trainer.steps = max(trainer.steps, 4 * STEPS)  # a short run's lr would have ended
    x, y = images(real, IMAGES)
    with torch.no_grad(), no_dropout(real.model):
        if reason := no_classes(real.model(x), y):
            return verdict(SKIPPED, reason)
    labels = getattr(real.validation, "y", y)
    share = float(labels.bincount().max() / len(labels))
    figure = f"the largest class is {share:.1%}, the accuracy to beat"
    expected = "a lower loss with the input than without"
    factor = max(real.schedule(step, real.steps) for step in range(STEPS))
    if factor < WARM:
        return verdict(SKIPPED, f"lr still at {factor:.0%} after {STEPS} steps; {figure}")
    for steps in range(EVERY, STEPS + 1, EVERY):
        losses = [_train(t, z, y, steps) for t, z in ((real, x), (blank, torch.zeros_like(x)))]
        saw = f"loss {losses[0]:.3g} with the input, {losses[1]:.3g} without, after {steps} steps"
        saw += f"; {figure}"
        if losses[0] < (1 - MARGIN) * losses[1] and math.isfinite(losses[1]):
            return verdict(PASS, saw, expected)
        if not math.isfinite(losses[0]):
            return verdict(WARN, saw, expected, f"optim.lr={real.lrs[0] / 10:g}")
    advice = "lr too low or too high, a signal that dies on its way, or labels at random: "
    return verdict(WARN, saw, expected, f"{advice}look at profile, overfit and label_shift first")


def _train(trainer: Trainer, x: Tensor, y: Tensor, steps: int) -> float:
    """Go on to step number `steps` on batches of x, y; the loss then, dropout off."""
    trainer.model.train()
    parts = list(zip(x.split(BATCH), y.split(BATCH), strict=True))
    while trainer.at < steps:
        trainer.step(*parts[trainer.at % len(parts)])
    with torch.no_grad(), no_dropout(trainer.model):
        return float(trainer.criterion(trainer.model(x), y))
