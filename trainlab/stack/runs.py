"""R single Trainers -> one that trains them together, and back. R runs, B batch, K classes."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainlab.errors import ConfigError
from trainlab.stack import lifting
from trainlab.stack.feeding import Fed, Repeated
from trainlab.stack.layers import single_name, stack
from trainlab.stack.updates import Optimizer
from trainlab.train import Trainer, evaluating
from trainlab.world import stream

ALIKE = "at", "steps", "accumulate", "monitor", "patience", "smooth"


class Stack:
    """R single Trainers of one structure, at one step, as one: `trainer` is an ordinary Trainer all
    of whose values are (R,). The single ones are only read.

    `seeds` start each run's dropout stream; a generator goes on where it stands. `forward(model)`
    gives what is called instead of the stacked model (precision, compile). `ids` tells which runs
    are still in, counted as they were handed over.

    Raises ConfigError, naming what differs, for runs that do not stack.
    """

    def __init__(
        self,
        trainers: Sequence[Trainer],
        seeds: Sequence[int | torch.Generator],
        forward: Callable[[nn.Module], Callable[[Tensor], Tensor]] | None = None,
    ):
        first = trainers[0]
        _refuse(trainers, forward)
        self.ids = list(range(len(trainers)))
        self.streams = [
            s if isinstance(s, torch.Generator) else stream(s, "dropout") for s in seeds
        ]
        self.model = stack([t.model for t in trainers], self.streams).to(first.params[0].device)
        self.batches = Fed([t.batches for t in trainers])
        like = first.params[0]
        lifted = partial(lifting.lifted, like=like, own=self._own(first.model))
        held = {
            name: [getattr(t, name) for t in trainers]
            for name in ("criterion", "clip", "constrain")
        }
        given = {name: None if own[0] is None else lifted(own, name) for name, own in held.items()}
        self.trainer = Trainer(
            self.model, given.pop("criterion"),
            Optimizer([t.optimizer for t in trainers], [t.model for t in trainers], self.model),
            self.batches, first.steps, **given,
            forward=forward and forward(self.model),
            accumulate=first.accumulate, monitor=first.monitor, patience=first.patience,
            smooth=first.smooth,
        )  # fmt: skip
        self._add(trainers, like)
        self.kept = [*given.values(), self.trainer.criterion, self.trainer.penalty]
        self._try(trainers)

    def _own(self, single: nn.Module) -> Callable[[Any], Any]:
        """A module or parameters of the first run -> the stack's."""
        names = {id(m): name for name, m in single.named_modules()}
        params = {id(p): name for name, p in single.named_parameters()}
        mine = {single_name(name): p for name, p in self.model.named_parameters()}

        def own(held: Any) -> Any:
            if isinstance(held, nn.Module):
                return self.model.get_submodule(names[id(held)])
            return [mine[params[id(p)]] for p in held]

        return own

    def _add(self, trainers: Sequence[Trainer], like: Tensor) -> None:
        """What a Trainer has beside its arguments."""
        trainer, first = self.trainer, trainers[0]
        self.begun = first.at
        trainer.at, trainer.train_mode = first.at, first.train_mode
        trainer.diverged = self._diverged  # the others go on
        trainer.schedule = Schedules([t.schedule for t in trainers], trainer)
        if first.validation is not None:
            trainer.validation = Repeated(first.validation, self.ids)
        if first.penalty is not None:
            trainer.penalty = lifting.penalised([t.penalty for t in trainers], like)
            trainer.penalised = self._own(first.model)(first.penalised)
            trainer.extra_row = self._terms
        if first.average is not None:
            trainer.average = type(first.average)(self.model, first.average.rule)
            trainer.judged = first.judged

    @torch.no_grad()
    def _terms(self) -> dict[str, Tensor]:
        parts = self.trainer.penalty.parts(self.trainer.penalised)
        return {f"penalty/{name}": value.cpu() for name, value in parts.items()}

    def _diverged(self, step: int, what: str) -> None:
        """A run that is not finite ends alone: see `leaving`."""

    def _try(self, trainers: Sequence[Trainer]) -> None:
        """One batch through the stack and through each run alone. Raises ConfigError where they
        differ, or where the model draws from torch's global stream."""
        x, _ = self.batches(self.trainer.at)
        model, before = self.model, torch.get_rng_state()
        kept = {name: t.clone() for name, t in model.state_dict().items()}
        with torch.no_grad():
            with evaluating(model):
                together = model(x)
                model.train()
                model(x)
            drawn = not torch.equal(before, torch.get_rng_state())
            torch.set_rng_state(before)
            model.load_state_dict(kept)
            for run, trainer in enumerate(trainers):
                with evaluating(trainer.model):
                    alone = trainer.model(x[run])
                close = torch.isclose(together[run], alone, 1e-2, 1e-2, equal_nan=True)
                if drawn or not close.all():
                    reason = "draws at random" if drawn else "does not treat each sample alone"
                    raise ConfigError(f"the model does not stack: it {reason}; run one by one")

    def leaving(self) -> Tensor:
        """Which runs are done, (R,) bool on the CPU: those that diverged, and those whose last
        `patience` evaluations brought nothing better. Waits for the device: ask after rows."""
        trainer, gone = self.trainer, ~self.trainer.optimizer.alive.cpu()
        if trainer.patience and trainer.history:
            oldest = trainer.history[-trainer.patience :][0][0]
            gone |= trainer.best_step < oldest
        return gone

    def diverged_at(self) -> list[int | None]:
        """For each run the step whose loss was the first not finite, counted from 1, or None."""
        optimizer = self.trainer.optimizer
        pairs = zip(optimizer.alive.tolist(), optimizer.lived.tolist(), strict=True)
        return [None if alive else self.begun + lived + 1 for alive, lived in pairs]

    def compact(self, runs: Sequence[int]) -> None:
        """Let go of all runs but these (places in the stack as it is), which go on as they are."""
        runs, trainer = list(runs), self.trainer
        device = trainer.params[0].device
        index = torch.tensor(runs, device=device)
        for module in self.model.modules():
            for p in module._parameters.values():
                if p is not None:
                    p.grad, p.data = None, p.data.index_select(0, index)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = buffer.index_select(0, index)
            if hasattr(module, "keep"):
                module.keep(runs)
        trainer.optimizer.keep(index)
        for part in self.kept:
            for lifted in (part, *getattr(part, "args", ())):
                if hasattr(lifted, "keep"):
                    lifted.keep(index)
        self.ids[:] = [self.ids[run] for run in runs]
        self.streams = [self.streams[run] for run in runs]
        self.batches.keep(runs)
        trainer.schedule.keep(runs)
        self._keep_seen(runs, index)

    def _keep_seen(self, runs: list[int], index: Tensor) -> None:
        """What the Trainer holds of past steps."""
        trainer, host = self.trainer, torch.tensor(runs)
        trainer.lrs = [lr[index] for lr in trainer.lrs]
        trainer._ones = None
        trainer.record = [(*(c[index] for c in row[:-1]), row[-1]) for row in trainer.record]
        trainer.history[:] = [(step, [own[run] for run in runs]) for step, own in trainer.history]
        if trainer.best_value is not None:
            trainer.best = {name: t[index] for name, t in trainer.best.items()}
            trainer.best_value = trainer.best_value[host]
            trainer.best_step = trainer.best_step[host]
        if trainer.smoothed is not None:
            trainer.smoothed = trainer.smoothed[host]
        if trainer.average is not None:
            weights = {name: t[index] for name, t in trainer.average.weights.items()}
            trainer.average = type(trainer.average)(self.model, trainer.average.rule)
            trainer.average.weights = weights

    @torch.no_grad()
    def take_out(self, run: int, single: Trainer) -> torch.Generator:
        """Make a fresh single Trainer what run `run` (its place now) has become: weights, buffers,
        optimizer state, position, rows still to come, history and best weights. Returns its
        dropout stream; to go on alone, `torch.set_rng_state(stream.get_state())`."""
        trainer = self.trainer
        single.model.load_state_dict(self.weights_of(run, self.model.state_dict()))
        params = dict(single.model.named_parameters())
        for name, p in self.model.named_parameters():
            state = trainer.optimizer.of_run(run, p)
            if state:
                single.optimizer.state[params[single_name(name)]] = state
        single.at = trainer.at
        single.record = [(*(c[run] for c in row[:-1]), row[-1]) for row in trainer.record]
        single.history[:] = [(step, own[run]) for step, own in trainer.history]
        if trainer.best_value is not None:
            single.best = self.weights_of(run, trainer.best)
            single.best_value, single.best_step = trainer.best_value[run], trainer.best_step[run]
        if trainer.smoothed is not None:
            single.smoothed = trainer.smoothed[run]
        if trainer.average is not None:
            single.average.load_state_dict(self.weights_of(run, trainer.average.weights))
        return self.streams[run]

    def weights_of(self, run: int, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A run's own part of a state_dict of the stack, with the single model's names."""
        return {
            single_name(name): t[run].clone()
            for name, t in state.items()
            if not name.endswith("_extra_state")
        }


class Schedules:
    """(step, steps) -> the factor on lr: a number where all runs have one schedule, else (R,)."""

    def __init__(self, schedules: Sequence[Callable[[int, int], float]], trainer: Trainer):
        self.base, _, self.keywords = lifting.unwrapped(schedules, "schedule", "history")
        self.trainer, self.runs = trainer, range(len(schedules))
        self.follows = self.keywords.pop("history", None) is not None

    def __call__(self, step: int, steps: int) -> float | Tensor:
        same = all(len(set(map(repr, own))) == 1 for own in self.keywords.values())
        if same and not self.follows:
            return self.base(step, steps, **{name: own[0] for name, own in self.keywords.items()})
        device = self.trainer.params[0].device
        return torch.tensor(
            [self._of(run, step, steps) for run in self.runs], dtype=torch.float64, device=device
        )

    def _of(self, run: int, step: int, steps: int) -> float:
        own = {name: values[run] for name, values in self.keywords.items()}
        if self.follows:
            own["history"] = [(at, values[run]) for at, values in self.trainer.history]
        return self.base(step, steps, **own)

    def keep(self, runs: list[int]) -> None:
        self.keywords = {n: tuple(own[r] for r in runs) for n, own in self.keywords.items()}
        self.runs = range(len(runs))


def _refuse(trainers: Sequence[Trainer], forward: Callable[[nn.Module], Callable] | None) -> None:
    """Raises ConfigError for what no stack can hold together."""
    first = trainers[0]
    for name in ALIKE:
        if any(getattr(t, name) != getattr(first, name) for t in trainers):
            raise ConfigError(f"{name}: differs between the runs of a stack; run them one by one")
    for name in ("criterion", "clip", "constrain", "penalty", "average", "validation"):
        if len({getattr(t, name) is None for t in trainers}) > 1:
            raise ConfigError(f"{name}: some runs of a stack have one; run them one by one")
    if first.scaler is not None:
        raise ConfigError("precision = fp16: its one scale is for one run; run one by one")
    if forward is None and any(t.forward is not t.model for t in trainers):
        raise ConfigError("precision, compile, channels_last: not in a stack; run one by one")
    if getattr(first.judged, "args", (None,))[0] is not None:
        raise ConfigError("evaluate.statistics, average.swa: not in a stack; run one by one")
    rules = {repr(getattr(getattr(t.average, "rule", None), "keywords", None)) for t in trainers}
    if len(rules) > 1:
        raise ConfigError("average: differs between the runs of a stack; run them one by one")
