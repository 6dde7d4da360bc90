"""The cost of probing a run, measured while it trains. For the console only: metrics.jsonl holds no
clock times."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

WORTH = 0.02  # share of a run's time above which the cost of its probes is reported


@dataclass
class Cost:
    """Seconds apart from training: `inside` the `probed` steps' probes and their rows, and `beside`
    them for work that does not depend on how often the run is probed."""

    events: Any  # their `seconds` are subtracted from what is timed here
    probed: int = 0  # number of probed steps
    inside: float = 0.0
    beside: float = 0.0
    steps: float = 0.0  # the probed steps themselves, which recording slows down

    def now(self) -> float:
        """Seconds on the clock without those of the events, after the device has finished."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return time.perf_counter() - self.events.seconds

    @contextmanager
    def probing(self, probe: Any, *step: Any) -> Iterator[None]:
        """Time a probe, and separately the step inside it."""
        begun = self.now()
        with probe(*step):
            before = self.now()
            yield
            after = self.now()
        self.probed += 1
        self.steps += after - before
        self.inside += before - begun + self.now() - after

    @contextmanager
    def also(self) -> Iterator[None]:
        """Time work beside the steps."""
        begun = self.now()
        yield
        self.beside += self.now() - begun


def probed_steps(every: int, begin: int, end: int) -> int:
    """How many of the steps begin, ..., end - 1 are probed, by `trainer.due(..., early=True)`."""
    early = (2**k - 1 for k in range(1, 64))
    often = sum(begin <= step < min(end, every) for step in early)
    return often + -(-end // every) - -(-begin // every)


def cost_lines(cost: Cost, seconds: float, every: int, begin: int, end: int) -> list[str]:
    """A line if probing took more than WORTH of the `seconds` of steps begin, ..., end - 1, with
    the cadence that would reduce it, to WORTH where possible."""
    inside = cost.inside + slowed(cost, seconds, end - begin)
    share = (inside + cost.beside) / seconds
    if share <= WORTH:
        return []
    line, best, tried = f"probes took {percent(share)} of this run", share, every
    plain = seconds - inside - cost.beside
    while best > WORTH and 2 * tried < end and cost.probed:
        tried *= 2
        fewer = inside / cost.probed * probed_steps(tried, begin, end) + cost.beside
        if fewer / (plain + fewer) < best:
            best, every = fewer / (plain + fewer), tried
    if percent(best) != percent(share):
        line += f"; probe.every={every} would take {percent(best)}"
    return [line]


def slowed(cost: Cost, seconds: float, steps: int) -> float:
    """Seconds that recording adds to the probed steps. An underestimate: all remaining time, the
    validations included, is attributed to the other steps."""
    rest = seconds - cost.inside - cost.beside - cost.steps
    return max(cost.steps - cost.probed * rest / max(steps - cost.probed, 1), 0.0)


def percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else "100 %"
