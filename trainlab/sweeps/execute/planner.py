"""How many runs train as one: as many as are fastest on warm steps and have room in memory. Written
down, and the same when asked again."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainlab.errors import ConfigError
from trainlab.stack import Stack
from trainlab.storage import atomic
from trainlab.sweeps.execute import memory
from trainlab.sweeps.execute.paused import forward_of
from trainlab.training.trainer import Trainer

SIZES = 1, 4, 16, 64, 256
WARM, TIMED, ROUNDS = 3, 5, 6  # steps, steps, times
PATIENCE = 20.0  # s
ROOM = 0.7  # of the free memory, at most


@dataclass(frozen=True)
class Plan:
    size: int
    sentence: str


def planned(bench: Any, runs: int, asked: int | None, path: Path) -> Plan:
    """The size of a stack for `runs` jobs like those of `bench`: asked for, written down in `path`
    for as many jobs or more, or the fastest of SIZES a run and step; no more than have room."""
    each, free = memory.per_run(bench), memory.available(bench.device)
    most = max(1, int(ROOM * free / each))
    kept = json.loads(path.read_text()) if path.exists() else {"runs": 0}
    if asked is not None:
        size, why = asked, "stack.size"
    elif kept["runs"] >= runs:
        size, why = kept["size"], f"as written in {path}"
    else:
        costs = timed(bench, [n for n in sorted({min(n, runs) for n in SIZES}) if n <= most])
        size = min(n for n, cost in costs.items() if cost < 1.05 * min(costs.values()))
        atomic.write_json(path, {"size": size, "runs": runs, "ms_per_run_and_step": costs})
        why = "ms a run and step: " + ", ".join(f"{n}: {1e3 * c:.3f}" for n, c in costs.items())
    if size > most:
        size, why = most, f"{size} have no room"
    mb, gb = min(size, runs) * each / 1e6, free / 1e9
    return Plan(size, f"{size} at a time ({why}), about {mb:.0f} MB of {gb:.1f} GB that are free")


def halved(size: int, path: Path) -> int:
    """Half the size, where the memory was too small for it; so from now on."""
    if path.exists():
        atomic.write_json(path, json.loads(path.read_text()) | {"size": (size + 1) // 2})
    return (size + 1) // 2


def timed(bench: Any, sizes: list[int]) -> dict[int, float]:
    """size -> seconds of a run and step. Sizes take turns, so that a busy moment meets all; those
    that are clearly slower, or would take more than PATIENCE, are left out with all above them."""
    begun, trainers, costs = time.monotonic(), {}, {}
    with torch.random.fork_rng(devices=[]):
        for size in sizes:
            if costs and (WARM + TIMED) * size * min(costs.values()) > PATIENCE:
                break
            try:
                trainers[size] = stack_of_copies(bench, size)
                costs[size] = once(trainers[size]) / size
            except (ConfigError, RuntimeError):  # not of this structure, or not in this memory
                trainers.pop(size, None)
                break
            if size > 4 and costs[size] > 2 * min(costs.values()):
                break
        for _ in range(ROUNDS - 1):
            for size, trainer in trainers.items():
                if time.monotonic() - begun < PATIENCE:
                    costs[size] = min(costs[size], once(trainer) / size)
    return costs


def cost(bench: Any, size: int) -> float:
    """Seconds of a run and step of `size` runs together, the fastest of ROUNDS; 1 is alone."""
    with torch.random.fork_rng(devices=[]):
        trainer = stack_of_copies(bench, size)
        return min(once(trainer) for _ in range(ROUNDS)) / size


def stack_of_copies(bench: Any, size: int) -> Trainer:
    """The Trainer of so many runs of this structure, each with an order of its own."""
    trainers = [bench.fresh(plain=True) for _ in range(size)]
    for trainer, seed in zip(trainers, range(size), strict=True):
        trainer.batches.order = shifted(trainer.batches.order, seed)
    if size == 1:
        return trainers[0]
    # not compiled, which takes longer than to try
    return Stack(trainers, list(range(size)), forward_of(bench.cfg, False)).trainer


def once(trainer: Trainer) -> float:
    """Seconds of a step after WARM ones: of a single thread its own time, whoever else is busy."""
    device = trainer.params[0].device
    cuda = device.type == "cuda"
    clock = time.perf_counter if cuda or torch.get_num_threads() > 1 else time.thread_time
    trainer.set_train_mode(trainer.model)
    for step in range(WARM + TIMED):
        if step == WARM:
            torch.cuda.synchronize(device) if cuda else None
            begun = clock()
        trainer.step(*trainer.batches(trainer.step_count))
    torch.cuda.synchronize(device) if cuda else None
    trainer.record.clear()
    return (clock() - begun) / TIMED


def shifted(order: Any, by: int) -> Any:
    """Another order for each run, as runs of other seeds have."""
    return lambda epoch: order(epoch).roll(by)
