"""Are train and eval mode, dropout masks and data orders right? Named by conf/check/.

B batch.
"""

from functools import partial

import torch
from torch import Tensor, nn

from trainlab.checks import FAIL, PASS, WARN, Fresh, Verdict
from trainlab.checks.tools import images
from trainlab.data.batches import Batches
from trainlab.optim.groups import TrainMode
from trainlab.training.modules import BATCH_NORMS, DROPOUTS
from trainlab.training.trainer import Trainer, evaluating

IMAGES, SETTLE = 128, 4  # SETTLE: batches averaged once batch-norm statistics have settled
RATE = 0.7  # of dropout; 0.5 is usual (Srivastava et al. 2014)
FEW = 8  # samples in the batch that batch norm sees
EPOCHS = 4  # epochs whose orders are compared with the first
EXPECTED = "train mode in training, eval mode in evaluation, new dropout masks and orders"


def modes(fresh: Fresh) -> Verdict:
    """Check modes and running statistics after a step, modes in evaluation, random streams over two
    steps, the order of each epoch and dropout rates; report the loss of one batch in both modes.

    Modules frozen on purpose (requires_grad, groups.freeze) belong in eval mode, and data in file
    order (data.order=sorted) may repeat their order.
    """
    verdict = partial(Verdict, "modes", expected=EXPECTED)
    trainer = fresh()
    norms = [m for m in trainer.model.modules() if isinstance(m, BATCH_NORMS)]
    count = len(trainer.batches(0)[1]) // trainer.accumulate
    if norms and count < FEW:
        saw = f"batch norm estimates its statistics from only {count} samples per batch"
        advice = f"batch_size={FEW * 4} accumulate=1, or norm=group"
        return verdict(
            WARN, saw, expected=f"at least {FEW} samples", advice=advice, cause="norm.mode"
        )
    if wrong := _in_training(trainer):
        advice = "call model.train() before each step, and after every evaluation"
        return verdict(FAIL, wrong, advice=advice, cause="loop.mode")
    trainer = fresh()
    if wrong := _in_evaluation(trainer.model):
        advice = "call model.eval() before every evaluation"
        return verdict(FAIL, wrong, advice=advice, cause="norm.mode")
    if wrong := _repeats(trainer):
        advice = "set the seed once, before the training loop"
        return verdict(WARN, wrong, advice=advice, cause="loop.seed_reset")
    rate = max((m.p for m in trainer.model.modules() if isinstance(m, DROPOUTS)), default=0.0)
    train, evaluation = _loss_in_both_modes(fresh())
    saw = f"loss {train:.3g} in train mode, {evaluation:.3g} in eval mode on the same images"
    if rate > RATE:
        saw = f"dropout {rate:g} keeps only {1 - rate:.0%} of the units; {saw}"
        advice = "model.dropout=0.2"
        return verdict(WARN, saw, advice=advice, cause="reg.dropout_high")
    return verdict(PASS, saw)


def _in_training(trainer: Trainer) -> str:
    """Modules in eval mode during a training step, or with constant running statistics, as a
    sentence; empty if there are none."""
    model, given = trainer.model, trainer.set_train_mode
    proper = given if isinstance(given, TrainMode) else TrainMode()
    proper(model)
    expected = {name: m.training for name, m in model.named_modules()}
    trainer.set_train_mode(model)
    before = {n: _statistics(m) for n, m in _running(model)}
    for step in range(2):
        trainer.step(*trainer.batches(step))
    away = [n for n, m in model.named_modules() if expected[n] and not m.training]
    kinds = [n for n in away if isinstance(model.get_submodule(n), BATCH_NORMS | DROPOUTS)]
    if away:
        named = ", ".join((kinds or [n or "the model" for n in away])[:3])
        return f"in eval mode during a training step: {named}"
    constant = []
    for name, norm in _running(model):
        if expected[name] and torch.equal(before[name], _statistics(norm)):
            constant.append(name)
    return f"running statistics do not change: {', '.join(constant[:3])}" if constant else ""


def _running(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Norms with running statistics, by name."""
    return [
        (n, m) for n, m in model.named_modules() if getattr(m, "running_mean", None) is not None
    ]


def _statistics(norm: nn.Module) -> Tensor:
    return torch.cat([norm.running_mean, norm.running_var])


def _in_evaluation(model: nn.Module) -> str:
    """Modules in train mode during an evaluation, as a sentence; empty if there are none."""
    with evaluating(model):
        live = [n for n, m in model.named_modules() if m.training]
    norms = [n for n, m in model.named_modules() if isinstance(m, BATCH_NORMS)]
    live += [n for n in norms if model.get_submodule(n).running_mean is None and n not in live]
    kinds = [n for n in live if isinstance(model.get_submodule(n), BATCH_NORMS | DROPOUTS)]
    return f"in train mode during evaluation: {', '.join(kinds[:3])}" if kinds else ""


def _repeats(trainer: Trainer) -> str:
    """Whether an epoch repeats the order of the first, or each step the same random numbers, as a
    sentence; empty if not."""
    batches = trainer.batches
    if isinstance(batches, Batches) and trainer.steps > batches.per_epoch:
        first = batches.order(0)
        in_file_order = torch.equal(first, torch.arange(first.shape[-1]).expand_as(first))
        for epoch in range(1, EPOCHS + 1):
            if not in_file_order and torch.equal(batches.order(epoch), first):
                return f"epoch {epoch + 1} has the same order as the first"
    torch.rand(1)  # move on from the state that an earlier step may have set
    states = [torch.get_rng_state()]
    trainer.set_train_mode(trainer.model)
    for step in range(2):
        trainer.step(*trainer.batches(step))
        states.append(torch.get_rng_state())
    if torch.equal(states[1], states[2]) and not torch.equal(*states[:2]):
        return "two steps draw the same random numbers: the same dropout masks"
    return ""


@torch.no_grad()
def _loss_in_both_modes(trainer: Trainer) -> tuple[float, float]:
    """Loss of the untrained network on the same images, in train mode and in eval mode."""
    model, (x, y) = trainer.model, images(trainer, IMAGES)
    trainer.set_train_mode(model)
    for _ in range(SETTLE * 5):  # momentum 0.1: 20 batches replace 88 % of the initial statistics
        model(x)
        if not _running(model):
            break
    losses = [trainer.criterion(model(x), y) for _ in range(SETTLE)]
    with evaluating(model):
        evaluated = trainer.criterion(model(x), y)
    return float(torch.stack(losses).mean()), float(evaluated)
