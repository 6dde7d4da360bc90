"""Can the network overfit 20 training images? Named by conf/check/. B batch, K classes."""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from trainlab.checks import FAIL, PASS, SKIPPED, WARN, Fresh, Verdict
from trainlab.checks.tools import floor, images, no_classes, no_dropout
from trainlab.training.modules import BATCH_NORMS
from trainlab.training.trainer import Trainer, evaluating

IMAGES, STEPS, EVERY = 20, 300, 10
FACTORS = 10, 0.1, 100, 0.01, 1000, 0.001  # of the user's lr, tried in turn where that lr fails
ADAM = 1e-2, 1e-3  # lr of the reference; in a small CNN the first can kill every unit
CLOSE = 0.01  # loss above its floor that counts as learned
NEARLY = 0.05  # the same: merely slow, so no cause is named
EXPECTED = f"loss < {CLOSE:g} above the floor and accuracy 1.00 within {STEPS} steps"


@dataclass(frozen=True)
class Fit:
    """What one optimizer reached: steps taken, loss and accuracy, and whether that passes."""

    steps: int
    loss: float
    accuracy: float
    passed: bool

    def __str__(self) -> str:
        return f"loss {self.loss:.3g}, accuracy {self.accuracy:.2f} after {self.steps} steps"


def overfit(fresh: Fresh) -> Verdict:
    """Overfit a tiny subset: full batches of 20 images, with the user's optimizer, else with Adam.

    Dropout, penalty, weight decay and schedule are off. A pass does not prove the labels right:
    random labels can be overfitted too.
    """
    trainer, verdict = fresh(), partial(Verdict, "overfit")
    x, y = images(trainer, IMAGES)
    with torch.no_grad(), no_dropout(trainer.model):
        z = trainer.model(x)
        if reason := no_classes(z, y):
            return verdict(SKIPPED, reason)
        least = floor(trainer.criterion, z, y)
    if least == -math.inf:
        advice = "this loss needs log-probabilities: end in log_softmax, or use loss=cross_entropy"
        saw = "the loss falls without bound as the outputs grow"
        return verdict(FAIL, saw, "a lower bound", advice, cause="loss.mismatch")
    above = f" (floor {least:.3f})" if least > CLOSE else ""
    fit = _fit(fresh(), x, y, least)
    if fit.passed:
        saw = f"{len(y)} images learned in {fit.steps} steps, loss {fit.loss:.2g}{above}"
        return verdict(PASS, saw, EXPECTED)
    for lr in ADAM:
        trainer = fresh()
        adam = torch.optim.Adam(trainer.params, lr=lr)
        trainer = Trainer(trainer.model, trainer.criterion, adam, trainer.batches, STEPS)
        reference = _fit(trainer, x, y, least)
        if reference.passed:
            break
    saw = f"{len(y)} images: {fit}{above}; with Adam at lr {lr:g} {reference}"
    if reference.passed:
        advice, cause = _remedy(fresh, x, y, least, fit, reference, lr)
        if fit.accuracy == 1 and fit.loss < least + NEARLY:
            cause = ""  # merely slow
        return verdict(WARN, saw, EXPECTED, advice, cause=cause)
    advice = "check network, loss and data, not the optimizer; try init=he_normal norm=batch"
    torn = _conflict(x, y)
    cause = "data.conflicting_labels" if torn else "fit.cannot_overfit"
    return verdict(FAIL, saw, EXPECTED, torn or advice, cause=cause)


def _fit(trainer: Trainer, x: Tensor, y: Tensor, least: float, factor: float = 1.0) -> Fit:
    """Up to STEPS steps at `factor` times lr; waits for the device only every EVERY steps."""
    lrs = [lr * factor for lr in trainer.lrs]
    trainer.change(penalty=None, schedule=lambda step, steps: 1.0, lrs=lrs)
    for group, lr in zip(trainer.optimizer.param_groups, trainer.lrs, strict=True):
        group["lr"] = lr
        if "weight_decay" in group:
            group["weight_decay"] = 0.0
    fit = Fit(0, math.inf, 0.0, False)
    with no_dropout(trainer.model):
        for step in range(1, STEPS + 1):
            trainer.step(x, y)
            if step % EVERY == 0:
                fit = _measure(trainer, x, y, least, step)
                if fit.passed or not math.isfinite(fit.loss):
                    break
    return fit


@torch.no_grad()
def _measure(trainer: Trainer, x: Tensor, y: Tensor, least: float, steps: int) -> Fit:
    """Loss and accuracy in train mode; if they fail, in eval mode with batch norm left in train
    mode, which switches off any kind of dropout."""

    def current() -> Fit:
        z = trainer.model(x)
        both = torch.stack([trainer.criterion(z, y), (z.argmax(-1) == y).double().mean()])
        loss, accuracy = both.tolist()
        return Fit(steps, loss, accuracy, loss < least + CLOSE and accuracy == 1)

    fit = current()
    if fit.passed:
        return fit
    with evaluating(trainer.model):
        for module in trainer.model.modules():
            if isinstance(module, BATCH_NORMS):
                module.train()
        without_dropout = current()
    return without_dropout if without_dropout.passed else fit


def _remedy(
    fresh: Fresh, x: Tensor, y: Tensor, least: float, failed: Fit, reference: Fit, lr: float
) -> tuple[str, str]:
    """Advice that was tried and passed (the user's optimizer at another lr, else the reference),
    and the cause that follows from it."""
    for factor in FACTORS:
        if factor > 1 and not math.isfinite(failed.loss):
            continue
        trainer = fresh()
        fit = _fit(trainer, x, y, least, factor)
        if fit.passed:
            advice = f"optim.lr={float(trainer.lrs[0]):g} (tried: learned in {fit.steps} steps)"
            return advice, "optim.lr_low" if factor > 1 else "optim.lr_high"
    advice = f"optim=adam optim.lr={lr:g} (tried: learned in {reference.steps} steps)"
    return advice, "fit.cannot_overfit" if math.isfinite(failed.loss) else "optim.lr_high"


def _conflict(x: Tensor, y: Tensor) -> str:
    """Two equal images with different labels, as a sentence; empty if there are none."""
    rows = x.flatten(1)
    for i in range(len(y)):
        same = (rows[i + 1 :] == rows[i]).all(1) & (y[i + 1 :] != y[i])
        if same.any():
            j = i + 1 + int(same.nonzero()[0])
            return f"images {i} and {j} are equal, with labels {int(y[i])} and {int(y[j])}"
    return ""
