"""The Trainer: one step, one loop, one evaluation. Imports torch and nothing of Hydra.

A loss is () for one run or (R,) for a stack of R runs, and `backward(ones)` serves both, because
runs in a stack share no weight. B batch, K classes, R runs; a stack puts R in front of every shape
below.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainlab.errors import NonFiniteError


@dataclass(frozen=True)
class Every:
    """After how many steps something is due; 0 is never."""

    log: int = 50
    evaluate: int = 0
    probe: int = 0
    save: int = 0


@dataclass(frozen=True)
class Watch:
    """Who looks on while a Trainer fits. Whatever they do, the trained weights are
    bit-identical."""

    rows: Callable[[int, dict[str, Tensor]], None] = lambda step, values: None
    probe: Callable[["Trainer", Tensor, Tensor], contextlib.AbstractContextManager] | None = None
    save: Callable[["Trainer"], None] = lambda trainer: None
    after: Callable[["Trainer"], None] = lambda trainer: (
        None
    )  # called after every step; raises to end the training


def due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def spread(values: Tensor, like: Tensor) -> Tensor:
    """() or (R,) -> a shape that multiplies `like`, (...) or (R, ...), run by run."""
    return values.reshape(values.shape + (1,) * (like.dim() - values.dim()))


class Trainer:
    """One network (or R of them stacked on a leading axis) and everything that changes while it
    trains.

    criterion(logits (B, K), y (B,)) -> (); penalty(params) -> (); clip(grads) -> () factor;
    schedule(step, steps) -> factor on every group's lr; batches(step) -> (x, y). For a stack each
    of them is lifted.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[[Tensor, Tensor], Tensor],
        optimizer: Any,
        batches: Callable[[int], tuple[Tensor, Tensor]],
        steps: int,
        *,
        schedule: Callable[[int, int], float] = lambda step, steps: 1.0,
        penalty: Callable[[list[Tensor]], Tensor] | None = None,
        clip: Callable[[list[Tensor]], Tensor] | None = None,
        validation: Any = None,
        monitor: str = "val/loss",
    ):
        self.model, self.criterion, self.optimizer = model, criterion, optimizer
        self.batches, self.steps, self.schedule = batches, steps, schedule
        self.penalty, self.clip = penalty, clip
        self.validation, self.monitor = validation, monitor
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.lrs = [group["lr"] for group in optimizer.param_groups]
        self.at = 0
        self.record: list[
            tuple[Tensor, Tensor, int]
        ] = []  # (losses, correct, B) of each step since the last row
        self.best: dict[str, Tensor] = {}
        self.best_value: Tensor | None = (
            None  # (), of `monitor`, lower is better (accuracy is negated)
        )
        self.best_step: Tensor | None = None
        self._ones: Tensor | None = None

    def objective(self, logits: Tensor, y: Tensor) -> Tensor:
        """What is minimised: the criterion and the penalty, ()."""
        return self._penalised(self.criterion(logits, y))

    def _penalised(self, losses: Tensor) -> Tensor:
        return losses if self.penalty is None else losses + self.penalty(self.params)

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """One update on x (B, ...), y (B,). Returns the objective before it, ()."""
        factor = self.schedule(self.at, self.steps)
        for group, lr in zip(self.optimizer.param_groups, self.lrs, strict=True):
            group["lr"] = lr * factor

        before = len(self.record)

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            logits = self.model(x)
            losses = self.criterion(logits, y)
            total = self._penalised(losses)
            if self._ones is None:
                self._ones = torch.ones_like(total)
            total.backward(self._ones)
            if self.clip is not None:
                self._clip()
            if len(self.record) == before:  # L-BFGS calls again, after it has moved
                labels = y.argmax(-1) if y.is_floating_point() else y  # class shares (B, K)
                correct = (logits.argmax(-1) == labels).sum(-1)
                self.record.append((losses.detach(), correct, labels.shape[-1]))
            return total

        total = self.optimizer.step(closure)
        self.at += 1
        return total

    def _clip(self) -> None:
        grads = [p.grad for p in self.params if p.grad is not None]
        factor = self.clip(grads)
        for grad in grads:
            grad.mul_(spread(factor, grad))

    def fit(self, every: Every, watch: Watch) -> None:
        """Train from `at` to `steps`. Probes look at a step from both sides, the rest happens
        after it."""
        self.model.train()
        while self.at < self.steps:
            x, y = self.batches(self.at)
            looking = watch.probe is not None and due(self.at, every.probe)
            with watch.probe(self, x, y) if looking else contextlib.nullcontext():
                self.step(x, y)
            last = self.at == self.steps
            values: dict[str, Tensor] = {}
            if last or due(self.at, every.log):
                values |= self.interval()
            if self.validation is not None and (last or due(self.at, every.evaluate)):
                values |= self.validate()
            if values:
                watch.rows(self.at, values)
            if last or due(self.at, every.save):
                watch.save(self)
            watch.after(self)

    def recorded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, correct and B of each step since the last row, (n,) each; the one place where the
        host waits.

        Raises NonFiniteError, naming the step, when a loss among them is not finite.
        """
        if not self.record:
            empty = torch.zeros(0, dtype=torch.float64)
            return empty, empty, empty
        losses, correct, sizes = zip(*self.record, strict=True)
        host = torch.stack([torch.stack(losses).double(), torch.stack(correct).double()]).cpu()
        bad = ~host[0].reshape(len(losses), -1).isfinite().all(1)
        if bad.any():
            first = int(bad.nonzero()[0])
            self.diverged(self.at - len(losses) + first + 1, f"loss = {host[0][first]}")
        return host[0], host[1], torch.tensor(sizes, dtype=torch.float64)

    def diverged(self, step: int, what: str) -> None:
        lr = float(torch.as_tensor(self.lrs[0]).max())
        now = lr * self.schedule(step - 1, self.steps)
        raise NonFiniteError(
            f"{what} at step {step} of {self.steps}, with lr {now:.3g}: it must stay finite; "
            f"try optim.lr={min(lr / 10, 0.1):g}, or clip.norm=1"
        )

    def interval(self) -> dict[str, Tensor]:
        """Mean loss and accuracy over the steps since the last call, and the lr of the latest
        step."""
        losses, correct, sizes = self.recorded()
        self.record.clear()
        weights = spread(sizes, losses) / sizes.sum()
        return {
            "train/loss": (losses * weights).sum(0),
            "train/accuracy": correct.sum(0) / sizes.sum(),
            "optim/lr": torch.as_tensor(
                self.optimizer.param_groups[0]["lr"], dtype=torch.float64
            ).cpu(),
        }

    @torch.no_grad()
    def evaluate(self, batches: Any) -> dict[str, Tensor]:
        """Mean loss and accuracy over one pass in evaluation mode. Batch norm and dropout are left
        as they were."""
        with evaluating(self.model):
            loss = correct = count = 0
            for step in range(batches.per_epoch):
                x, y = batches(step)
                logits = self.model(x)
                loss = loss + self.criterion(logits, y).double() * y.shape[-1]
                correct = correct + (logits.argmax(-1) == y).sum(-1)
                count += y.shape[-1]
        loss, accuracy = torch.stack([loss / count, correct.double() / count]).cpu()
        return {"loss": loss, "accuracy": accuracy}

    def validate(self) -> dict[str, Tensor]:
        """Evaluate on the validation split and remember the weights where `monitor` was best, run
        by run."""
        seen = {f"val/{name}": value for name, value in self.evaluate(self.validation).items()}
        value = seen[self.monitor] * (-1 if self.monitor.endswith("accuracy") else 1)
        if not seen["val/loss"].isfinite().all():
            self.recorded()  # the first step that was not finite is the better answer
            self.diverged(self.at, f"val/loss = {seen['val/loss']}")
        if self.best_value is None:
            self.best_value = torch.full_like(value, float("inf"))
            self.best_step = torch.zeros_like(value, dtype=torch.int64)
            self.best = {name: t.detach().clone() for name, t in self.model.state_dict().items()}
        better = value < self.best_value
        self.best_value = torch.where(better, value, self.best_value)
        self.best_step = torch.where(better, self.at, self.best_step)
        if better.any():
            here = better.to(next(iter(self.best.values())).device)
            for name, now in self.model.state_dict().items():
                torch.where(spread(here, now), now.detach(), self.best[name], out=self.best[name])
        return seen

    def best_at(self) -> int:
        """The step of the best weights; of a stack, the latest of its runs'."""
        return self.at if self.best_step is None else int(self.best_step.max())


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every module's own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
