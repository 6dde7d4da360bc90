"""The doctor during a run: reference values at its start, findings at its end."""

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
    """Context that yields the Watch to train with, which also counts dead units and compares train
    and eval mode on the first batch. However the run ends, its findings are saved, printed and sent
    to TensorBoard. They follow from metrics.jsonl alone, so a resumed run has the same. A high cost
    of probing is reported."""
    directory, events, first = log.path.parent, log.events, trainer.batches(0)
    before, begun, at = events.seconds, time.perf_counter(), trainer.step_count
    cost = Cost(events)

    def rows(step: int, values: dict[str, torch.Tensor]) -> None:
        with cost.also():
            extra = {}
            # not in a stack, which counts for all its runs
            if trainer.step_count == step and validated(values):
                for layer, share in dead_units(bench, trainer).items():
                    extra[f"activation_dead/{layer}"] = share
                if counted(trainer):
                    extra |= both_modes(trainer, *first)
        watch.rows(step, values | extra)

    if trainer.step_count == 0:
        factors = sampled(trainer.schedule, trainer.steps)
        log.curve("schedule/lr", [trainer.lrs[0] * factor for factor in factors])
        with cost.also():
            trainer.set_train_mode(trainer.model)
            log.scalars(0, compared_with(bench, trainer) | both_modes(trainer, *first))
    try:
        yield replace(watch, rows=rows, probe=partial(cost.probing, watch.probe))
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
            log.flush()  # the end of the run syncs it to the disk
        cost.beside += events.seconds - before  # the last pictures
        every = bench.cadences(trainer.batches.per_epoch).probe
        seconds = time.perf_counter() - begun
        if every:
            show.notes(cost_lines(cost, seconds, every, at, trainer.step_count))


def dead_units(bench: Any, trainer: Any, runs: bool = False) -> dict[str, Any]:
    """Share of dead units of each activation; a pass costs as much as a few steps."""
    if not counted(trainer) or "activation" not in bench.cfg.probe:  # a config is slow to read
        return {}
    from trainlab.probes.activation import dead

    return dead(trainer.model, trainer.validation, runs)


def counted(trainer: Any) -> bool:
    """Whether this is the 1st, 2nd, 4th, every 5th or the last validation."""
    many = len(trainer.history)
    return due(many, 5) or many in (1, 2, 4) or trainer.ended()


@torch.no_grad()
def compared_with(bench: Any, trainer: Any) -> dict[str, float]:
    """Reference values: loss and metric of the best constant answer, and the initial loss of a
    validation batch. The metric is the first for which higher is better.

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
    """The first step since the last row with a non-finite loss; else the current step."""
    losses = [float(entry[0]) for entry in trainer.record]
    begun = trainer.step_count - len(losses)
    finite = torch.tensor(losses).isfinite().tolist()
    return begun + finite.index(False) + 1 if False in finite else trainer.step_count
