"""Beside a run that trains: what is to be compared with at its start, the findings at its end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from trainlab.doctor.cost import Cost, cost_lines
from trainlab.doctor.examine import examine, keep
from trainlab.doctor.finding import card, shown
from trainlab.doctor.modes import both_modes
from trainlab.errors import NonFiniteError
from trainlab.observe.capture import eager, unmoved
from trainlab.optim.lr_curve import sampled
from trainlab.training.metrics import validated
from trainlab.training.trainer import Watch, due, evaluating


@contextmanager
def watching(bench: Any, trainer: Any, log: Any, show: Any, watch: Watch) -> Iterator[Watch]:
    """Inside, the run trains under the Watch that is given, which counts dead units too, and what
    the modes differ by on the first batch. However it ends, the findings are kept, shown and sent
    to TensorBoard. They follow from metrics.jsonl alone, so a resumed run has the same. What
    watching cost is said where it is much."""
    directory, events, first = log.path.parent, log.events, trainer.batches(0)
    before, begun, at = events.seconds, time.perf_counter(), trainer.step_count
    cost = Cost(events)

    def rows(step: int, values: dict[str, torch.Tensor]) -> None:
        with cost.also():
            # not so in a stack, which counts for all its runs
            here = trainer.step_count == step and validated(values)
            found = dead_units(bench, trainer) if here else {}
            seen = {f"activation_dead/{layer}": share for layer, share in found.items()}
            seen |= both_modes(trainer, *first) if here and counted(trainer) else {}
        watch.rows(step, values | seen)

    if trainer.step_count == 0:
        factors = sampled(trainer.schedule, trainer.steps)
        log.curve("schedule/lr", [trainer.lrs[0] * factor for factor in factors])
        with cost.also():
            trainer.set_train_mode(trainer.model)
            log.scalars(0, compared_with(bench, trainer) | both_modes(trainer, *first))
    try:
        yield replace(watch, rows=rows, probe=partial(cost.look, watch.probe))
    except NonFiniteError:
        log.scalars(broken_at(trainer), {"train/loss": float("nan")})
        raise
    finally:
        log.flush()
        cost.inside += events.seconds - before
        before = events.seconds
        with cost.also():
            found = examine(directory)
            keep(directory, found)
            show.notes(shown(found))
            log.end(trainer.step_count)
            log.text("findings", card(found))
            log.flush()  # whoever ends the story brings it to the disk
        cost.beside += events.seconds - before  # the last pictures
        every = bench.cadences(trainer.batches.per_epoch).probe
        seconds = time.perf_counter() - begun
        if every:
            show.notes(cost_lines(cost, seconds, every, at, trainer.step_count))


def dead_units(bench: Any, trainer: Any, runs: bool = False) -> dict[str, Any]:
    """Share of dead units of each activation; a pass costs as much as a few steps."""
    if not counted(trainer) or "activation" not in bench.cfg.probe:  # reading a config is slow
        return {}
    from trainlab.probes.activation import dead

    return dead(trainer.model, trainer.validation, runs)


def counted(trainer: Any) -> bool:
    """Whether this is the 1st, 2nd or 4th validation, every 5th, or the last."""
    many = len(trainer.history)
    return due(many, 5) or many in (1, 2, 4) or trainer.ended()


@torch.no_grad()
def compared_with(bench: Any, trainer: Any) -> dict[str, float]:
    """Loss and metric of the best constant answer, and the loss of a batch before the first step.
    The metric is the first of which more is better.

    The best of three constant logits: the logarithm of the classes' shares (right for cross
    entropy), the shares (for squared error), and 0 (for a hinge).
    """
    y = bench.splits.val.y
    shares = torch.bincount(y, minlength=len(bench.splits.classes)) / len(y)
    answers = (shares.clamp_min(1e-6).log(), shares, torch.zeros_like(shares))
    losses = [trainer.criterion(a.expand(len(y), -1), y) for a in answers]
    better = [metric for metric in trainer.followed if metric.facts.direction == "up"]
    chance = {
        f"chance/{m.facts.name}": float(m.figure(m.state(shares.expand(len(y), -1), y), len(y)))
        for m in better[:1]
    }
    x, y = trainer.validation(0)
    with unmoved(trainer.model), evaluating(trainer.model):
        start = trainer.criterion(eager(trainer.model)(x), y)
    return {
        "chance/loss": float(torch.stack(losses).min()),
        "start/loss": float(start),
        **chance,
    }


@torch.no_grad()
def broken_at(trainer: Any) -> int:
    """The first step since the last row whose loss was not finite; the present one otherwise."""
    losses = [float(entry[0]) for entry in trainer.record]
    begun = trainer.step_count - len(losses)
    finite = torch.tensor(losses).isfinite().tolist()
    return begun + finite.index(False) + 1 if False in finite else trainer.step_count
