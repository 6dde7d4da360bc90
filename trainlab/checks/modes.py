"""Do training and evaluation differ where they must, and only there? Named by conf/check/.

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

IMAGES, SETTLE = 128, 4  # batches that batch-norm statistics are settled on
RATE = 0.7  # of dropout; 0.5 is usual (Srivastava et al. 2014)
FEW = 8  # samples a batch norm goes by
EPOCHS = 4  # whose orders are compared
EXPECTED = "training mode in training, evaluation mode in evaluation, fresh masks and orders"


def modes(fresh: Fresh) -> Verdict:
    """Modes and running statistics after a step, modes in evaluation, random streams over two
    steps, orders of epochs, dropout rates, and how much the modes differ in loss on one batch.

    What is frozen on purpose (requires_grad, groups.freeze) is expected to be in evaluation mode,
    and data in the order of the file (data.order=sorted) to come again.
    """
    verdict = partial(Verdict, "modes", expected=EXPECTED)
    trainer = fresh()
    norms = [m for m in trainer.model.modules() if isinstance(m, BATCH_NORMS)]
    count = len(trainer.batches(0)[1]) // trainer.accumulate
    if norms and count < FEW:
        saw = f"batch norm goes by {count} samples in training, by running statistics after it"
        advice = f"batch_size={FEW * 4} accumulate=1, or norm=group"
        return verdict(WARN, saw, expected=f"at least {FEW}", advice=advice, cause="norm.mode")
    if wrong := _in_training(trainer):
        advice = "call model.train() before each step, and after every evaluation"
        return verdict(FAIL, wrong, advice=advice, cause="loop.mode")
    trainer = fresh()
    if wrong := _in_evaluation(trainer.model):
        advice = "call model.eval() before an evaluation"
        return verdict(FAIL, wrong, advice=advice, cause="norm.mode")
    if wrong := _same_again(trainer):
        advice = "seed once, before the training, not in its loop"
        return verdict(WARN, wrong, advice=advice, cause="loop.seed_reset")
    rate = max((m.p for m in trainer.model.modules() if isinstance(m, DROPOUTS)), default=0.0)
    train, calm = _both_ways(fresh())
    saw = f"loss {train:.3g} in training mode, {calm:.3g} in evaluation mode on the same images"
    if rate > RATE:
        saw = f"dropout {rate:g} leaves {1 - rate:.0%} of the units; {saw}"
        advice = "model.dropout=0.2"
        return verdict(WARN, saw, advice=advice, cause="reg.dropout_high")
    return verdict(PASS, saw)


def _in_training(trainer: Trainer) -> str:
    """Which modules do not train in a training step, or whose running statistics stand still; in
    words, or nothing."""
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
        return f"in evaluation mode while it trains: {named}"
    still = [
        n for n, m in _running(model) if expected[n] and torch.equal(before[n], _statistics(m))
    ]
    return f"running statistics stand still: {', '.join(still[:3])}" if still else ""


def _running(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Norms that keep statistics of what they see, by name."""
    return [
        (n, m) for n, m in model.named_modules() if getattr(m, "running_mean", None) is not None
    ]


def _statistics(norm: nn.Module) -> Tensor:
    return torch.cat([norm.running_mean, norm.running_var])


def _in_evaluation(model: nn.Module) -> str:
    """Which modules go on training in evaluation, in words, or nothing."""
    with evaluating(model):
        live = [n for n, m in model.named_modules() if m.training]
    norms = [n for n, m in model.named_modules() if isinstance(m, BATCH_NORMS)]
    live += [n for n in norms if model.get_submodule(n).running_mean is None and n not in live]
    kinds = [n for n in live if isinstance(model.get_submodule(n), BATCH_NORMS | DROPOUTS)]
    return f"in training mode while it is evaluated: {', '.join(kinds[:3])}" if kinds else ""


def _same_again(trainer: Trainer) -> str:
    """Whether a later epoch has the order of the first, or each step begins with the same random
    numbers; in words, or nothing."""
    batches = trainer.batches
    if isinstance(batches, Batches) and trainer.steps > batches.per_epoch:
        first = batches.order(0)
        in_file_order = torch.equal(first, torch.arange(first.shape[-1]).expand_as(first))
        for epoch in range(1, EPOCHS + 1):
            if not in_file_order and torch.equal(batches.order(epoch), first):
                return f"epoch {epoch + 1} has the same order as the first"
    torch.rand(1)  # what an earlier step left is no state to compare with
    states = [torch.get_rng_state()]
    trainer.set_train_mode(trainer.model)
    for step in range(2):
        trainer.step(*trainer.batches(step))
        states.append(torch.get_rng_state())
    if torch.equal(states[1], states[2]) and not torch.equal(*states[:2]):
        return "two steps draw the same random numbers: the same dropout masks"
    return ""


@torch.no_grad()
def _both_ways(trainer: Trainer) -> tuple[float, float]:
    """The loss of the untrained network on the same images, as trained and as evaluated."""
    model, (x, y) = trainer.model, images(trainer, IMAGES)
    trainer.set_train_mode(model)
    for _ in range(SETTLE * 5):  # running statistics keep 0.9 of the old
        model(x)
        if not _running(model):
            break
    losses = [trainer.criterion(model(x), y) for _ in range(SETTLE)]
    with evaluating(model):
        calm: Tensor = trainer.criterion(model(x), y)
    return float(torch.stack(losses).mean()), float(calm)
