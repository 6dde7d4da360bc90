"""Is the batch too small for its learning rate? B batch."""

import math

import torch

from trainlab.checks import Fresh
from trainlab.checks.tools import images, no_dropout
from trainlab.training.trainer import Trainer

TINY, USUAL = 4, 32  # samples a batch: judged, and compared with
STEPS, RAMP = 120, 20  # of which so many warm up
WORSE = 3.0  # times the loss that the same steps reach with usual batches


def noisy(fresh: Fresh, factor: float) -> str:
    """What steps at `factor` times lr reach with tiny batches and with usual ones, in words, where
    only the former fail; else nothing. So it is the noise and not the lr alone."""
    if len(fresh().batches(0)[1]) > TINY:
        return ""
    before, tiny = _trial(fresh(), factor, 1)
    if tiny < before:  # a nan is not
        return ""
    _, usual = _trial(fresh(), factor, USUAL // len(fresh().batches(0)[1]))
    if not usual < before / WORSE:
        return ""
    size = len(fresh().batches(0)[1])
    saw = f"loss {before:.3g} is {tiny:.3g} after {STEPS} steps of batches of {size}, {usual:.3g} "
    return f"{saw}after as many of {USUAL}"


def _trial(trainer: Trainer, factor: float, joined: int) -> tuple[float, float]:
    """The loss on 256 images before and after STEPS steps of `joined` batches each."""
    x, y = images(trainer, 256)
    trainer.schedule = lambda step, steps: factor * min((step + 1) / RAMP, 1)
    losses = []
    for steps in (0, STEPS):
        trainer.train_mode(trainer.model)
        for step in range(steps):
            parts = [trainer.batches(step * joined + i) for i in range(joined)]
            trainer.step(*(torch.cat(each) for each in zip(*parts, strict=True)))
        with torch.no_grad(), no_dropout(trainer.model):
            losses.append(float(trainer.criterion(trainer.model(x), y)))
    before, after = losses
    return before, after if math.isfinite(after) else math.inf
