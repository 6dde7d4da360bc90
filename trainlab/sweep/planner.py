"""How many runs train as one: timed on warm steps, written down, the same when asked again."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainlab import durable
from trainlab.errors import ConfigError
from trainlab.stack import Stack

SIZES = 1, 4, 16, 64, 256
WARM, TIMED, ROUNDS = 3, 5, 6  # steps


@dataclass(frozen=True)
class Plan:
    size: int
    told: str


def planned(bench: Any, runs: int, asked: int | None, sweep: Path, structure: str) -> Plan:
    """The size of a stack for `runs` jobs like those of `bench`: asked for, written down in the
    sweep's folder, or the fastest of SIZES a run and step."""
    path = sweep / f"stack-{structure[:12]}.json"
    if asked is not None:
        return Plan(asked, f"{asked} at a time (stack.size)")
    if path.exists():
        kept = json.loads(path.read_text())
        return Plan(kept["size"], f"{kept['size']} at a time, as written in {path}")
    costs: dict[int, float] = {}
    for size in sorted({min(size, runs) for size in SIZES}):
        try:
            costs[size] = cost(bench, size)
        except (ConfigError, RuntimeError):  # not of this structure, or not in this memory
            break
        if size > 4 and costs[size] > 1.5 * min(costs.values()):
            break
    size = min(size for size, c in costs.items() if c < 1.05 * min(costs.values()))
    durable.write_json(path, {"size": size, "ms_per_run_and_step": costs})
    each = ", ".join(f"{n}: {1e3 * c:.3f}" for n, c in costs.items())
    return Plan(size, f"{size} at a time (ms a run and step: {each})")


def cost(bench: Any, size: int) -> float:
    """Seconds of a run and step: the fastest of ROUNDS, of `size` runs together; 1 is alone."""
    state = torch.get_rng_state()
    trainers = [bench.fresh(plain=True) for _ in range(size)]
    for trainer, seed in zip(trainers, range(size), strict=True):
        trainer.batches.order = shifted(trainer.batches.order, seed)
    trainer = trainers[0] if size == 1 else Stack(trainers, list(range(size))).trainer
    trainer.train_mode(trainer.model)
    found = []
    for _ in range(ROUNDS):
        for _ in range(WARM):
            trainer.step(*trainer.batches(trainer.at))
        begun = time.perf_counter()
        for _ in range(TIMED):
            trainer.step(*trainer.batches(trainer.at))
        found.append((time.perf_counter() - begun) / TIMED / size)
    torch.set_rng_state(state)
    return min(found)


def shifted(order: Any, by: int) -> Any:
    """Another order for each run, as runs of other seeds have."""
    return lambda epoch: order(epoch).roll(by)
