"""Faults of the loss, of the optimizer and of the loop. Named by conf/fault/."""

from functools import partial

from torch import nn

from trainlab.errors import ConfigError
from trainlab.faults.data import resized
from trainlab.optim.clip import by_norm
from trainlab.training.modules import matrices
from trainlab.training.trainer import Trainer


def sign(trainer: Trainer, severity: float) -> None:
    """The loss is multiplied with -severity."""
    criterion = trainer.criterion
    trainer.change(criterion=lambda logits, y: -severity * criterion(logits, y))


def summed(trainer: Trainer, severity: float) -> None:
    """The loss is summed over the batch, times `severity`."""
    criterion = trainer.criterion
    trainer.change(criterion=lambda logits, y: severity * y.shape[-1] * criterion(logits, y))


def lr_times(trainer: Trainer, severity: float) -> None:
    """The learning rate is this factor of the recipe's."""
    trainer.change(lrs=[lr * severity for lr in trainer.lrs])


def lr_is(trainer: Trainer, severity: float) -> None:
    """The learning rate is this, taken over from another optimizer."""
    trainer.change(lrs=[severity for _ in trainer.lrs])


def weight_decay(trainer: Trainer, severity: float) -> None:
    """The optimizer's weight decay."""
    for group in trainer.optimizer.param_groups:
        if "weight_decay" not in group:
            raise ConfigError("fault = reg_weight_decay_high: this optimizer has no weight decay")
        group["weight_decay"] = severity


def eps(trainer: Trainer, severity: float) -> None:
    """The constant beside the root of the second moment."""
    for group in trainer.optimizer.param_groups:
        if "betas" not in group or "eps" not in group:
            raise ConfigError("fault = optim_eps: needs a second moment; use optim=adam")
        group["eps"] = severity


def tiny_batch(trainer: Trainer, severity: float) -> None:
    """So many samples a step, at the learning rate of the recipe."""
    resized(trainer, int(severity))


def few_updates(trainer: Trainer, severity: float) -> None:
    """Batches of this share of all samples, for as many epochs."""
    epochs = trainer.steps / trainer.batches.per_epoch
    resized(trainer, max(2, int(severity * len(trainer.batches.y))))
    trainer.change(steps=max(1, round(epochs * trainer.batches.per_epoch)))


def overclipped(trainer: Trainer, severity: float) -> None:
    """Gradients are cut to this joint norm."""
    trainer.change(clip=partial(by_norm, norm=severity))


def no_zero_grad(trainer: Trainer, severity: float) -> None:
    """Gradients are emptied only every `severity` steps; 0: never."""
    empty, calls = trainer.optimizer.zero_grad, iter(range(1, 2**62))

    def zero_grad(set_to_none: bool = True) -> None:
        if severity and next(calls) % severity == 0:
            empty(set_to_none)

    trainer.optimizer.zero_grad = zero_grad


def not_updated(trainer: Trainer, severity: float) -> None:
    """The optimizer was not given the first `severity` weights."""
    weights = [id(p) for p in matrices(trainer.model).values() if p.requires_grad]
    left = weights[: int(severity)]
    for group in trainer.optimizer.param_groups:
        group["params"] = [p for p in group["params"] if id(p) not in left]


def wrong_unit(trainer: Trainer, severity: float) -> None:
    """The schedule runs so many times too fast, as when it is told steps for epochs."""
    schedule = trainer.schedule

    def fast(step: int, steps: int) -> float:
        return schedule(min(int(step * severity), steps), steps)

    trainer.change(schedule=fast)


def undertrained(trainer: Trainer, severity: float) -> None:
    """Only this share of the steps is taken, by a schedule made for them."""
    trainer.change(steps=max(1, round(trainer.steps * severity)))


def mode(trainer: Trainer, severity: float) -> None:
    """This share of the modules, from the input on, trains in evaluation mode."""

    def train(model: nn.Module) -> None:
        model.train()
        modules = list(model.modules())
        for module in modules[: round(severity * len(modules))]:
            module.training = False

    trainer.change(set_train_mode=train)
