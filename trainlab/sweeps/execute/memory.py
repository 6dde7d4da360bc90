"""Memory of a stack, estimated before it is built from one step of one run; and how to tell that
there was too little."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

GROUP = Path("/sys/fs/cgroup")  # a container may have less than its machine
TOO_LITTLE = re.compile(r"not enough memory|can't allocate memory|out of memory", re.IGNORECASE)


def per_run(bench: Any) -> int:
    """Bytes that one run more takes: weights, optimizer state, best and averaged weights (in the
    stack, and in the run's own Trainer), gradients and a copy of them, and what the larger of a
    training step and an evaluation keeps. 0.75 to 1.25 of what seven recipes took on a CPU."""
    trainer = bench.fresh(plain=True)
    held: dict[int, int] = {}

    def note(t: Tensor) -> Tensor:
        held[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    x, y = trainer.batches(0)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        trainer.step(x, y)
    weights = size(trainer.model.state_dict().values())
    states = (v for own in trainer.optimizer.state.values() for v in own.values())
    for p in trainer.params:
        held.pop(p.untyped_storage().data_ptr(), None)
    once = (2 if trainer.average is None else 3) * weights + size(states)
    largest = max(held.values(), default=0) / len(y)
    trained = 3 * sum(held.values())  # what is kept, its gradients, copies in another layout
    judged = min(512, len(bench.splits.val)) * 4 * largest  # of a layer, input and output, copied
    return int(2 * once + 2 * weights + max(trained, judged))


def size(tensors: Iterable[Any]) -> int:
    """Bytes of those that are tensors."""
    return sum(t.nbytes for t in tensors if isinstance(t, Tensor))


def available(device: torch.device) -> int:
    """Bytes that are free: of the GPU, or of the machine and of the container around us."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = []
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(1024 * int(lines["MemAvailable"].split()[0]))
        most, used = (int((GROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        found.append(most - used)
    except (OSError, ValueError, KeyError):  # no Linux, or no limit there
        pass
    return min(found, default=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)


def too_little(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or (isinstance(error, RuntimeError) and bool(TOO_LITTLE.search(str(error))))
