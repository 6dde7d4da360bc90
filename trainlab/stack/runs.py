"""R single Trainers -> one that trains them together, and back. R runs, B batch, K classes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainlab.errors import ConfigError
from trainlab.stack import lifting, state
from trainlab.stack.batches import Fed, Repeated
from trainlab.stack.layers import single_name, stack, streams_of
from trainlab.stack.optimizer import Optimizer
from trainlab.stack.random_layers import Drawing
from trainlab.stack.refusals import refuse_unlike_runs
from trainlab.training.trainer import Extras, FollowsHistory, Trainer, evaluating

UNIT = 32  # floats in the two vectors that torch's loops take at a time with AVX-512


class Stack:
    """R single Trainers of one structure, at one step, as one: `trainer` is an ordinary Trainer all
    of whose values are (R,). The single ones are only read.

    `seeds` start each run's dropout stream; a generator goes on where it stands. `forward(model)`
    gives what is called instead of the stacked model (precision, compile). `ids` has the run in
    each place, counted as they were handed over; None is a free one.

    Raises ConfigError, naming what differs, for runs that do not stack.
    """

    def __init__(
        self,
        trainers: Sequence[Trainer],
        seeds: Sequence[int | torch.Generator],
        forward: Callable[[nn.Module], Callable[[Tensor], Tensor]] | None = None,
    ):
        first = trainers[0]
        refuse_unlike_runs(trainers, forward)
        self.ids: list[int | None] = list(range(len(trainers)))
        self.streams = streams_of(seeds)
        self.model = stack([t.model for t in trainers], self.streams).to(first.params[0].device)
        self.batches = Fed([t.batches for t in trainers])
        like = first.params[0]
        lifted = partial(lifting.lifted, like=like, own=self._own(first.model))
        criterion = lifted([t.criterion for t in trainers], "criterion")
        extras = Extras(
            forward=forward and forward(self.model),
            clip=first.clip and lifted([t.clip for t in trainers], "clip"),
            constrain=first.constrain and lifted([t.constrain for t in trainers], "constrain"),
            average=first.average and first.average.of(self.model),
            eval_weights=first.eval_weights,
            set_train_mode=first.set_train_mode,
            not_finite=self._not_finite,
        )
        if first.penalty is not None:
            extras = replace(
                extras,
                penalty=lifting.penalised([t.penalty for t in trainers], like),
                penalised=self._own(first.model)(first.penalised),
                extra_metrics=penalty_terms,
            )
        given = [t.schedule for t in trainers]
        rules = [s.rule if isinstance(s, FollowsHistory) else s for s in given]
        self.schedules = lifting.Schedules(rules, like.device)
        follows = isinstance(first.schedule, FollowsHistory)
        self.trainer = Trainer(
            self.model, criterion,
            Optimizer([t.optimizer for t in trainers], [t.model for t in trainers], self.model),
            self.batches, first.steps,
            schedule=FollowsHistory(self.schedules) if follows else self.schedules,
            accumulate=first.accumulate, metrics=first.metrics, monitor=first.monitor,
            patience=first.patience,
            smooth=first.smooth, extras=extras,
            validation=first.validation and Repeated(first.validation, self.ids),
        )  # fmt: skip
        self.begun = first.step_count
        self.lost: dict[int | None, tuple[int, str]] = {}  # in an evaluation
        state.take_in(self.trainer, trainers)
        self.kept = [criterion, extras.clip, extras.constrain, extras.penalty]
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

    def _not_finite(self, trainer: Trainer, step: int, name: str, losses: Tensor) -> None:
        """A run that is not finite ends alone: see `leaving`. The optimizer has frozen those whose
        training loss it was; one that is not finite in an evaluation has diverged, too."""
        alive, finite = trainer.optimizer.alive, losses.isfinite()
        for place in (alive.cpu() & ~finite).nonzero().flatten().tolist():
            self.lost[self.ids[place]] = step, f"{name} = {losses[place]}"
        alive &= finite.to(alive.device)

    def _try(self, trainers: Sequence[Trainer]) -> None:
        """One batch through the stack and through each run alone. Raises ConfigError where they
        differ, or where the model draws from torch's global stream."""
        x, _ = self.batches(self.trainer.step_count)
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

    def place(self, run: int) -> int:
        """Where run `run` stands in every (R, ...) now."""
        return self.ids.index(run)

    def leaving(self) -> list[int]:
        """The runs still in that are done: those that diverged, and those whose last `patience`
        evaluations brought nothing better. Waits for the device: ask after rows."""
        trainer = self.trainer
        done = ~trainer.optimizer.alive.cpu()
        if trainer.patience and trainer.history:
            oldest = trainer.history[-trainer.patience :][0][0]
            done |= trainer.best_step < oldest
        return [run for place, run in enumerate(self.ids) if run is not None and done[place]]

    def diverged_at(self) -> dict[int, tuple[int, str]]:
        """Of each run still in that diverged, the step of the first loss that was not finite,
        counted from 1, and which loss that was."""
        optimizer = self.trainer.optimizer
        pairs = zip(self.ids, optimizer.alive.tolist(), optimizer.lived.tolist(), strict=True)
        return {
            run: self.lost.get(run, (self.begun + lived + 1, "loss = nan"))
            for run, alive, lived in pairs
            if run is not None and not alive
        }

    def compact(self, runs: Sequence[int], exact: bool = True) -> None:
        """Let go of all runs but these, which go on, bit for bit, as if nothing had happened.

        The bits of a run depend on where it lies in memory (BLAS looks at its alignment, a loop of
        vectors ends in single numbers). So a run moves by multiples of UNIT places only, a stack
        has a multiple of UNIT to shrink at all, and free places in between (`ids` None) hold frozen
        copies. Without `exact` it shrinks to `runs`.
        """
        order: list[int | None] = list(runs)
        if exact:
            order = _in_place(self.ids, set(runs))
        if len(order) < len(self.ids):
            some = next(run for run in order if run is not None)
            self._move([self.place(some if run is None else run) for run in order])
            self.streams = [
                torch.Generator() if run is None else stream
                for run, stream in zip(order, self.streams, strict=True)
            ]
            for module in self.model.modules():
                if isinstance(module, Drawing):
                    module.generators = list(self.streams)
        self.ids[:] = order
        free = torch.tensor([run is None for run in order], device=self.trainer.params[0].device)
        self.trainer.optimizer.alive &= ~free

    def _move(self, places: list[int]) -> None:
        """Make (R, ...) everywhere the slices `places` of what it is."""
        trainer = self.trainer
        index = torch.tensor(places, device=trainer.params[0].device)
        for module in self.model.modules():
            for p in module.parameters(recurse=False):
                p.grad, p.data = None, p.data.index_select(0, index)
            for name, buffer in list(module.named_buffers(recurse=False, remove_duplicate=False)):
                setattr(module, name, buffer.index_select(0, index))
            if hasattr(module, "keep"):
                module.keep(places)
        trainer.optimizer.keep(index)
        for part in self.kept:
            for lifted in (part, *getattr(part, "args", ())):
                if hasattr(lifted, "keep"):
                    lifted.keep(index)
        self.streams = [self.streams[place] for place in places]
        self.batches.keep(places)
        self.schedules.keep(places)
        state.keep(trainer, places, index)

    @torch.no_grad()
    def take_out(self, run: int, single: Trainer) -> torch.Generator:
        """Make a fresh single Trainer what run `run` has become: weights, buffers, optimizer state,
        position, rows still to come, history and best weights. Returns its dropout stream; to go on
        alone, `torch.set_rng_state(stream.get_state())`."""
        trainer, at = self.trainer, self.place(run)
        single.model.load_state_dict(self.weights_of(run, self.model.state_dict()))
        params = dict(single.model.named_parameters())
        for name, p in self.model.named_parameters():
            moments = trainer.optimizer.of_run(at, p)
            if moments:
                single.optimizer.state[params[single_name(name)]] = moments
        state.take_out(trainer, at, single, partial(self.weights_of, run))
        return self.streams[at]

    def weights_of(self, run: int, stacked: dict[str, Tensor]) -> dict[str, Tensor]:
        """A run's own part of a state_dict of the stack, with the single model's names."""
        at = self.place(run)
        return {
            single_name(name): t[at].clone(memory_format=torch.contiguous_format)
            for name, t in stacked.items()
            if not name.endswith(state.OWN)
        }


@torch.no_grad()
def penalty_terms(trainer: Trainer) -> dict[str, Tensor]:
    """How much each penalty adds to the losses, (R,), for the rows."""
    parts = trainer.penalty.parts(trainer.penalised)
    return {f"penalty/{name}": value.cpu() for name, value in parts.items()}


def _in_place(ids: list[int | None], kept: set[int]) -> list[int | None]:
    """The runs that stay, each a multiple of UNIT places from where it was; None is free."""
    if len(ids) % UNIT == 0:
        columns = [[run for run in ids[c::UNIT] if run in kept] for c in range(UNIT)]
        rows = max(map(len, columns))
        if 0 < rows * UNIT < len(ids):
            return [column[row] if row < len(column) else None for row in range(rows)
                    for column in columns]  # fmt: skip
    return [run if run in kept else None for run in ids]
