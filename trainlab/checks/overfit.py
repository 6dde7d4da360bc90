"""Can 20 training images be learned by heart? Named by conf/preflight/. B batch, K classes."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainlab.checks import FAIL, PASS, SKIPPED, WARN, Fresh, Verdict
from trainlab.checks.ground import floor, images, no_classes, no_dropout
from trainlab.train import Trainer, evaluating

IMAGES, STEPS, EVERY = 20, 300, 10
CLOSE = 0.01  # of the loss, above its floor
EXPECTED = f"loss < {CLOSE:g} above the floor and accuracy 1.00 within {STEPS} steps"


@dataclass(frozen=True)
class Fit:
    """How far one optimizer came: steps taken, loss and accuracy then, and whether that is a pass.
    """

    steps: int
    loss: float
    accuracy: float
    passed: bool

    def __str__(self) -> str:
        return f"loss {self.loss:.3g}, accuracy {self.accuracy:.2f} after {self.steps} steps"


def overfit(fresh: Fresh) -> Verdict:
    """Full batches of 20 images, first with the user's own optimizer and lr, else with Adam at lr
    1e-2.

    Dropout, penalty, weight decay and schedule are off. Passing does not prove that the labels are
    right: random ones are learned too.
    """
    name, trainer = "overfit", fresh()
    x, y = images(trainer, IMAGES)
    with torch.no_grad(), no_dropout(trainer.model):
        z = trainer.model(x)
        if reason := no_classes(z, y):
            return Verdict(name, SKIPPED, reason)
        least = floor(trainer.criterion, z, y)
    if least == -math.inf:
        return Verdict(
            name,
            FAIL,
            "the loss falls without end as the outputs grow",
            "a loss with a floor",
            "it expects log-probabilities: end in log_softmax, or use loss=cross_entropy",
        )
    trainer = fresh()
    started = _loss(trainer, x, y)
    own = _fit(trainer, x, y, least)
    above = f" (floor {least:.3f})" if least > CLOSE else ""
    if own.passed:
        return Verdict(
            name,
            PASS,
            f"{len(y)} images learned in {own.steps} steps: loss {own.loss:.2g}{above}",
            EXPECTED,
        )
    trainer = fresh()
    adam = torch.optim.Adam(trainer.params, lr=1e-2)
    reference = _fit(
        Trainer(trainer.model, trainer.criterion, adam, trainer.batches, STEPS), x, y, least
    )
    saw = f"{len(y)} images: {own}{above}; with Adam at lr 0.01 {reference}"
    if reference.passed:
        return Verdict(name, WARN, saw, EXPECTED, _advice(trainer, own.loss, started))
    if pair := _conflict(x, y):
        saw += f"; {pair}"
    return Verdict(
        name,
        FAIL,
        saw,
        EXPECTED,
        "the network, the loss or the data, not the optimizer: try init=he_normal activation=relu norm=batch",
    )


def _fit(trainer: Trainer, x: Tensor, y: Tensor, least: float) -> Fit:
    """Up to STEPS steps on one batch; the device is asked for a result every EVERY steps only."""
    trainer.penalty, trainer.schedule = None, lambda step, steps: 1.0
    for group in trainer.optimizer.param_groups:
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
    """As trained; if that is no pass, in evaluation mode, where dropout of every make is off (batch
    norm stays).
    """

    def look() -> Fit:
        z = trainer.model(x)
        loss, accuracy = torch.stack(
            [trainer.criterion(z, y), (z.argmax(-1) == y).double().mean()]
        ).tolist()
        return Fit(steps, loss, accuracy, loss < least + CLOSE and accuracy == 1)

    if (fit := look()).passed:
        return fit
    with evaluating(trainer.model):
        for module in trainer.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train()
        calm = look()
    return calm if calm.passed else fit


@torch.no_grad()
def _loss(trainer: Trainer, x: Tensor, y: Tensor) -> float:
    with no_dropout(trainer.model):
        return float(trainer.criterion(trainer.model(x), y))


def _advice(trainer: Trainer, last: float, started: float) -> str:
    lr = float(trainer.optimizer.param_groups[0]["lr"])
    if not last < started:  # NaN too
        return (
            f"lr too high for this network: try optim.lr={lr / 10:g}, or optim=adam optim.lr=0.01"
        )
    return f"slow, not stuck: try optim.lr={lr * 10:g}, or optim=adam optim.lr=0.01"


def _conflict(x: Tensor, y: Tensor) -> str:
    """Two equal images with different labels make the task impossible."""
    rows = x.flatten(1)
    for i in range(len(y)):
        same = (rows[i + 1 :] == rows[i]).all(1) & (y[i + 1 :] != y[i])
        if same.any():
            j = i + 1 + int(same.nonzero()[0])
            return f"images {i} and {j} are equal, their labels are {int(y[i])} and {int(y[j])}"
    return ""
