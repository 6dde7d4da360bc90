"""The Trainer: one step, one loop, one evaluation. Imports torch and nothing of Hydra.

A loss is () for one run or (R,) for a stack of R runs, and `backward(ones)` serves both: they share
no weight. B batch, K classes, R runs; a stack puts R in front of every shape below.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainlab.errors import NonFiniteError, lower_lr
from trainlab.training.best_weights import keep_best, per_run
from trainlab.training.metrics import LOSS, Metric, classes_of


@dataclass(frozen=True)
class Every:
    """After how many steps something is due; 0 is never."""

    log: int = 50
    evaluate: int = 0
    probe: int = 0
    save: int = 0


@dataclass(frozen=True)
class Watch:
    """Callbacks of Trainer.fit. They must not change training: the trained weights are
    bit-identical without them."""

    rows: Callable[[int, dict[str, Tensor]], None] = lambda step, values: None
    probe: Callable[["Trainer", Tensor, Tensor], contextlib.AbstractContextManager] | None = None
    save: Callable[["Trainer"], None] = lambda trainer: None
    # called after every step; raises to end the training
    after: Callable[["Trainer"], None] = lambda trainer: None


class NotFinite(Protocol):
    """Called with losses, () or (R,) of a stack, of which at least one is not finite, and their
    step."""

    def __call__(self, trainer: "Trainer", step: int, name: str, losses: Tensor) -> None: ...


def end_run(trainer: "Trainer", step: int, name: str, losses: Tensor) -> None:
    """The default NotFinite: raises NonFiniteError."""
    trainer.diverged(step, f"{name} = {losses}")


class Average(Protocol):
    """A running average of the weights, e.g. EMA."""

    rule: Any  # equal for two averages of the same kind
    weights: dict[str, Tensor]

    def update(self, trainer: "Trainer") -> None: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...
    def of(self, model: nn.Module) -> "Average":
        """The same rule, started afresh for another model."""


@dataclass(frozen=True)
class FollowsHistory:
    """A schedule that depends on past evaluations: rule(step, steps, history=...), where history is
    [(step, `monitor`), ...], lower is better. The Trainer that receives it sets `trainer`."""

    rule: Callable[..., float]
    trainer: "Trainer | None" = None

    def __call__(self, step: int, steps: int) -> float:
        history = self.trainer.history if self.trainer is not None else ()
        return self.rule(step, steps, history=history)


@dataclass(frozen=True)
class Extras:
    """Additions to the plain step and replacements of its parts; the defaults change nothing.

    penalty(params) -> (); clip(grads, params) -> (grads, clipped share ()).
    """

    forward: Callable[[Tensor], Tensor] | None = None  # None: the model itself
    penalty: Callable[[list[Tensor]], Tensor] | None = None
    penalised: list[nn.Parameter] | None = None  # None: all trainable parameters
    clip: Callable[[list[Tensor], list[Tensor]], tuple[list[Tensor], Tensor]] | None = None
    constrain: Callable[[], None] | None = None  # after every step
    average: Average | None = None
    scaler: torch.amp.GradScaler | None = None
    # a context in which the model holds the weights to evaluate (e.g. averaged ones); with
    # `eval_inputs`, batches (B, ...), its batch-norm statistics come from one pass over those
    eval_weights: Callable[["Trainer"], contextlib.AbstractContextManager] = contextlib.nullcontext
    eval_inputs: Callable[[], Iterable[Tensor]] | None = None
    set_train_mode: Callable[[nn.Module], Any] = nn.Module.train
    extra_metrics: Callable[["Trainer"], dict[str, Any]] = lambda trainer: {}  # for every row
    step: Callable[[Tensor, Tensor], Any] | None = None  # a user's own step instead of Trainer.step
    not_finite: NotFinite = end_run  # a stack continues with its other runs


@dataclass
class Progress:
    """The state of a training run, apart from weights and optimizer."""

    step_count: int = 0
    # (losses, counts of each followed metric, clipped share, B) of the steps since the last row
    record: list[tuple] = field(default_factory=list)
    history: list[tuple[int, Any]] = field(default_factory=list)  # (step, `monitor`)
    smoothed: Tensor | None = None  # average of all losses, bias not yet corrected
    best: dict[str, Tensor] = field(default_factory=dict)  # weights where `monitor` was best
    best_value: Tensor | None = None  # (), of `monitor`, lower is better
    best_step: Tensor | None = None


PLAIN = Extras()
# what `Trainer.change` may replace
CHANGEABLE = {
    *("criterion", "batches", "validation", "steps", "schedule", "lrs"),
    *("forward", "penalty", "clip", "average", "set_train_mode", "extra_metrics"),
}


def due(step: int, every: int, early: bool = False) -> bool:
    """Whether `step` is a multiple of `every`; with `early` also at 1, 3, 7, ... before the
    first."""
    return every > 0 and (step % every == 0 or (early and step < every and not step & (step + 1)))


class Trainer:
    """Trains one network, or R networks stacked on a leading axis, and holds their training state.

    criterion(logits (B, K), y (B,)) -> (); schedule(step, steps) -> factor of every group's lr;
    batches(step) -> (x, y), where y is (B,) class numbers or (B, K) shares of classes. For a stack
    all of them take and return a leading R.
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
        accumulate: int = 1,
        validation: Any = None,
        metrics: Sequence[Metric] = (),
        monitor: str = "val/loss",
        patience: int | None = None,
        smooth: float = 0.0,
        extras: Extras = PLAIN,
    ):
        self.model, self.criterion, self.optimizer = model, criterion, optimizer
        self.batches, self.steps = batches, steps
        follows = isinstance(schedule, FollowsHistory)
        self.schedule = replace(schedule, trainer=self) if follows else schedule
        self.accumulate, self.validation, self.monitor = accumulate, validation, monitor
        self.patience, self.smooth = patience, smooth
        self.metrics = tuple(metrics)
        self.followed = [
            m for m in self.metrics if m.facts.direction
        ]  # metrics with one figure, written to the rows
        self.facts = {"loss": LOSS} | {m.facts.name: m.facts for m in self.followed}
        self.monitored = self.facts[monitor.removeprefix("val/")]
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.lrs = [group["lr"] for group in optimizer.param_groups]
        self.forward, self.penalty = extras.forward or model, extras.penalty
        self.penalised = self.params if extras.penalised is None else extras.penalised
        self.clip, self.constrain = extras.clip, extras.constrain
        self.average, self.scaler = extras.average, extras.scaler
        self.eval_weights, self.eval_inputs = extras.eval_weights, extras.eval_inputs
        self.set_train_mode, self.extra_metrics = extras.set_train_mode, extras.extra_metrics
        self.not_finite = extras.not_finite
        if extras.step is not None:
            self.step = extras.step
        self.set_progress(Progress())

    def set_progress(self, progress: Progress) -> None:
        """Continue from the progress of another Trainer; weights and optimizer are restored
        separately."""
        self.step_count, self.smoothed = progress.step_count, progress.smoothed
        self.record, self.history = progress.record, progress.history
        self.best, self.best_value = progress.best, progress.best_value
        self.best_step = progress.best_step
        self._ones: Tensor | None = None

    def change(self, **parts: Any) -> None:
        """Replace some of the parts in CHANGEABLE, as faults and checks do on purpose."""
        if unknown := parts.keys() - CHANGEABLE:
            raise TypeError(f"{', '.join(sorted(unknown))}: cannot be changed in a Trainer")
        vars(self).update(parts)

    @contextlib.contextmanager
    def calling(self, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Context in which a step calls `forward` instead of the model."""
        previous, self.forward = self.forward, forward
        try:
            yield
        finally:
            self.forward = previous

    def objective(self, logits: Tensor, y: Tensor) -> Tensor:
        """The objective that is minimised: criterion + penalty, ()."""
        return self._penalised(self.criterion(logits, y))

    def _penalised(self, losses: Tensor) -> Tensor:
        return losses if self.penalty is None else losses + self.penalty(self.penalised)

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """One update on x (B, ...), y (B,). Returns the objective before the update, ()."""
        factor = self.schedule(self.step_count, self.steps)
        for group, lr in zip(self.optimizer.param_groups, self.lrs, strict=True):
            group["lr"] = lr * factor

        before = len(self.record)

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            total, *figures = self._gradients(x, y)
            clipped = self._clip()
            if len(self.record) == before:  # L-BFGS calls again after moving the weights
                self.record.append((*figures, clipped, classes_of(y).shape[-1]))
            return total

        if self.scaler is None:
            total = self.optimizer.step(closure)
        else:  # the scaler skips a step whose gradients are infinite
            total = closure()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.step_count += 1
        if self.constrain is not None:
            self.constrain()
        if self.average is not None:
            self.average.update(self)
        return total

    def _gradients(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """Compute the gradients of the objective into .grad. Returns objective (), loss () and the
        counts of each followed metric."""
        axis, results, parts = classes_of(y).dim() - 1, [], [(x, y)]
        if self.accumulate > 1:
            n = min(self.accumulate, y.shape[axis])
            parts = zip(x.tensor_split(n, axis), y.tensor_split(n, axis), strict=True)
        for x_, y_ in parts:
            logits = self.forward(x_)
            losses = self.criterion(logits, y_)
            if self.accumulate > 1:
                losses = losses * (y_.shape[axis] / y.shape[axis])
            total = losses if results else self._penalised(losses)
            if self._ones is None:
                self._ones = torch.ones_like(total)
            scaled = total if self.scaler is None else self.scaler.scale(total)
            scaled.backward(self._ones)
            counts = [metric.state(logits.detach(), y_) for metric in self.followed]
            results.append((total, losses.detach(), *counts))
        if len(results) == 1:
            return results[0]
        return tuple(map(sum, zip(*results, strict=True)))

    def _clip(self) -> Tensor:
        """Clip the gradients in place. Returns the share that was clipped, ()."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.clip is None:
            return self._ones
        held = [p for p in self.params if p.grad is not None]
        bounded, share = self.clip([p.grad for p in held], held)
        for p, grad in zip(held, bounded, strict=True):
            p.grad.copy_(grad)
        return share

    def fit(self, every: Every, watch: Watch) -> None:
        """Train from `step_count` to the end. Probes wrap the step (state before and after it);
        everything else happens after the step."""
        self.set_train_mode(self.model)
        while not self.ended():
            x, y = self.batches(self.step_count)
            probing = watch.probe is not None and due(self.step_count, every.probe, early=True)
            with watch.probe(self, x, y) if probing else contextlib.nullcontext():
                self.step(x, y)
            values: dict[str, Tensor] = {}
            evaluating_now = self.step_count == self.steps or due(self.step_count, every.evaluate)
            if self.validation is not None and evaluating_now:
                with self.eval_weights(self):
                    values = self.validate()
            last = self.ended()
            if last or due(self.step_count, every.log):
                values = self.interval() | values
            if values:
                watch.rows(self.step_count, values)
            if last or due(self.step_count, every.save):
                watch.save(self)
            watch.after(self)

    def ended(self) -> bool:
        """Whether all steps are done, or the last `patience` evaluations did not improve
        `monitor`."""
        waited = self.history[-self.patience :] if self.patience else []
        return self.step_count >= self.steps or (bool(waited) and self.best_at() < waited[0][0])

    def recorded(self) -> list[Tensor]:
        """Columns (n, ...) of `record`, one entry per step. The only place where the host waits for
        the device.

        Raises NonFiniteError with the step when a loss is not finite.
        """
        if not self.record:
            return [torch.zeros(0, dtype=torch.float64)] * (len(self.followed) + 3)
        *columns, sizes = zip(*self.record, strict=True)
        stacked = [torch.stack(column).double() for column in columns]
        flat = [column.reshape(len(sizes), -1) for column in stacked]
        widths = [column.shape[1] for column in flat]
        parts = zip(torch.cat(flat, 1).cpu().split(widths, 1), stacked, strict=True)
        host = [part.reshape(column.shape) for part, column in parts]
        bad = ~host[0].reshape(len(sizes), -1).isfinite().all(1)
        if bad.any():
            at = int(bad.nonzero()[0])
            self.not_finite(self, self.step_count - len(sizes) + at + 1, "loss", host[0][at])
        return [*host, torch.tensor(sizes, dtype=torch.float64)]

    def diverged(self, step: int, what: str) -> None:
        """Raises NonFiniteError, with what to type."""
        lr = float(torch.as_tensor(self.lrs[0]).max())
        now = f"with lr {lr * self.schedule(step - 1, self.steps):.3g}"
        raise NonFiniteError(
            f"{what} at step {step} of {self.steps}, {now}: it must stay finite; "
            f"try {lower_lr(lr)}, or clip.norm=1",
            step,
        )

    def interval(self) -> dict[str, Tensor]:
        """Mean loss and metrics over the steps since the last call, smoothed loss, latest lr."""
        losses, *counts, clipped, sizes = self.recorded()
        self.record.clear()
        lr = torch.as_tensor(self.optimizer.param_groups[0]["lr"], dtype=torch.float64)
        figures = {"train/loss": (losses * (per_run(sizes, losses) / sizes.sum())).sum(0)}
        for metric, count in zip(self.followed, counts, strict=True):
            figures[f"train/{metric.facts.name}"] = metric.figure(count.sum(0), sizes.sum())
        figures["optim/lr"] = lr.cpu()
        if self.smooth:
            figures["train/loss_smooth"] = self._smoothed(losses)
        if self.clip is not None:
            figures["optim/clipped"] = clipped.mean(0)
        return figures

    def _smoothed(self, losses: Tensor) -> Tensor:
        """Exponential moving average of the losses of all steps so far, corrected for its start at
        0 (Kingma and Ba 2015, section 3)."""
        old = torch.zeros_like(losses[:1].sum(0)) if self.smoothed is None else self.smoothed
        ages = torch.arange(len(losses) - 1, -1, -1, dtype=losses.dtype)
        new = (per_run(self.smooth**ages, losses) * losses).sum(0)
        self.smoothed = self.smooth ** len(losses) * old + (1 - self.smooth) * new
        return self.smoothed / (1 - self.smooth**self.step_count)

    @torch.no_grad()
    def evaluate(self, batches: Any) -> dict[str, Tensor]:
        """Mean loss and every metric over one pass in evaluation mode. Changes nothing."""
        with evaluating(self.model):
            loss = samples = 0
            counts: list[Any] = [0] * len(self.metrics)
            for step in range(batches.per_epoch):
                x, y = batches(step)
                logits = self.forward(x)
                n = classes_of(y).shape[-1]
                loss = loss + self.criterion(logits, y).double() * n
                counts = [
                    count + metric.state(logits, y)
                    for count, metric in zip(counts, self.metrics, strict=True)
                ]
                samples += n
        figures = {"loss": loss / samples}
        for metric, count in zip(self.metrics, counts, strict=True):
            figures[metric.facts.name] = metric.figure(count.double(), samples)
        return {name: figure.cpu() for name, figure in figures.items()}

    def validate(self) -> dict[str, Tensor]:
        """Evaluate on the validation split; keep each run's weights where `monitor` was best."""
        figures = self.evaluate(self.validation)
        values = {f"val/{name}": figures[name] for name in self.facts if name in figures}
        value = self.monitored.cost(values[self.monitor])
        if not values["val/loss"].isfinite().all():
            self.recorded()  # raises first where a training loss was not finite earlier
            self.not_finite(self, self.step_count, "val/loss", values["val/loss"])
        self.history.append((self.step_count, value.tolist()))
        keep_best(self, value)
        return values

    def best_at(self) -> int:
        """The step of the best weights; in a stack, the latest of its runs."""
        return self.step_count if self.best_step is None else int(self.best_step.max())


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Context in evaluation mode; restores the mode of every module afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
