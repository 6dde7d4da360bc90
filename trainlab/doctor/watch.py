"""Beside a run that trains: what is to be compared with at its start, the findings at its end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from trainlab.doctor.cost import Cost, told
from trainlab.doctor.examine import examine, keep
from trainlab.doctor.finding import card, shown
from trainlab.errors import NonFiniteError
from trainlab.taps import eager, unmoved
from trainlab.train import Watch, due, evaluating


@contextmanager
def watching(bench: Any, trainer: Any, log: Any, show: Any, watch: Watch) -> Iterator[Watch]:
    """Inside, the run trains under the Watch that is given, which counts dead units too. However
    it ends, the findings are kept, shown and sent to TensorBoard. They follow from metrics.jsonl
    alone, so a resumed run has the same. What watching cost is said where it is much."""
    directory, events = log.path.parent, log.events
    before, begun, at = events.seconds, time.perf_counter(), trainer.at
    cost = Cost(events)

    def rows(step: int, values: dict[str, torch.Tensor]) -> None:
        with cost.also():
            here = trainer.at == step  # not so in a stack, which counts for all its runs
            found = dead_units(bench, trainer) if "val/loss" in values and here else {}
        watch.rows(step, values | {f"activation_dead/{layer}": s for layer, s in found.items()})

    if trainer.at == 0:
        log.curve("schedule/lr", drawn(trainer))
        with cost.also():
            log.scalars(0, compared_with(bench, trainer))
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
            log.text("findings", card(found))
            log.sync()
        cost.beside += events.seconds - before  # the last pictures
        every = bench.cadences(trainer.batches.per_epoch).probe
        seconds = time.perf_counter() - begun
        if every:
            show.notes(told(cost, seconds, every, at, trainer.at))


def dead_units(bench: Any, trainer: Any, runs: bool = False) -> dict[str, Any]:
    """Share of dead units of each activation, counted with the 1st, 2nd, 4th validation and every
    5th, and the last: a pass costs as much as a few steps."""
    often = due(len(trainer.history), 5) or len(trainer.history) in (1, 2, 4)
    if not (often or trainer.ended()) or "activation" not in bench.cfg.probe:
        return {}
    from trainlab.probes.activation import dead

    return dead(trainer.model, trainer.validation, runs)


def drawn(trainer: Any) -> list[float]:
    """lr at 200 places of the training."""
    places = range(0, trainer.steps, max(trainer.steps // 200, 1))
    return [trainer.lrs[0] * trainer.schedule(step, trainer.steps) for step in places]


@torch.no_grad()
def compared_with(bench: Any, trainer: Any) -> dict[str, float]:
    """Loss and accuracy of the best constant answer, and the loss of a batch before the first step.

    The best of three constant logits: the logarithm of the classes' shares (right for cross
    entropy), the shares (for squared error), and 0 (for a hinge).
    """
    y = bench.splits.val.y
    shares = torch.bincount(y, minlength=len(bench.splits.classes)) / len(y)
    answers = (shares.clamp_min(1e-6).log(), shares, torch.zeros_like(shares))
    losses = [trainer.criterion(a.expand(len(y), -1), y) for a in answers]
    x, y = trainer.validation(0)
    with unmoved(trainer.model), evaluating(trainer.model):
        start = trainer.criterion(eager(trainer.model)(x), y)
    return {
        "chance/loss": float(torch.stack(losses).min()),
        "chance/accuracy": float(shares.max()),
        "start/loss": float(start),
    }


@torch.no_grad()
def broken_at(trainer: Any) -> int:
    """The first step since the last row whose loss was not finite; the present one otherwise."""
    losses = [float(entry[0]) for entry in trainer.record]
    begun = trainer.at - len(losses)
    finite = torch.tensor(losses).isfinite().tolist()
    return begun + finite.index(False) + 1 if False in finite else trainer.at
