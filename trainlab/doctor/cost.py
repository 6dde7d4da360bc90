"""What watching a run costs, measured while it goes. Clocks stay out of metrics.jsonl: this is for
the console."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

WORTH = 0.02  # share of a run above which its probes are worth a word


@dataclass
class Cost:
    """Seconds beside the steps: `looks` of them inside the probes (and what their rows take to
    write), the rest for what goes with a run however often it is looked at."""

    events: Any  # their `seconds` are told apart from what is timed here
    looks: int = 0
    inside: float = 0.0
    beside: float = 0.0
    steps: float = 0.0  # the steps that were looked at, which take longer for it

    def now(self) -> float:
        """Seconds of the clock without those of the events; after what the device has to do."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return time.perf_counter() - self.events.seconds

    @contextmanager
    def look(self, probe: Any, *step: Any) -> Iterator[None]:
        """A probe without the step that is its body."""
        begun = self.now()
        with probe(*step):
            before = self.now()
            yield
            after = self.now()
        self.looks += 1
        self.steps += after - before
        self.inside += before - begun + self.now() - after

    @contextmanager
    def also(self) -> Iterator[None]:
        begun = self.now()
        yield
        self.beside += self.now() - begun


def looks(every: int, begin: int, end: int) -> int:
    """How many of the steps begin, ..., end - 1 are looked at: as `train.due(..., early=True)`."""
    early = (2**k - 1 for k in range(1, 64))
    often = sum(begin <= step < min(end, every) for step in early)
    return often + -(-end // every) - -(-begin // every)


def cost_lines(cost: Cost, seconds: float, every: int, begin: int, end: int) -> list[str]:
    """A line where watching took more than WORTH of `seconds`, which the steps begin, ..., end - 1
    took with it; and the cadence that would bring it down, to WORTH if one can."""
    inside = cost.inside + slowed(cost, seconds, end - begin)
    share = (inside + cost.beside) / seconds
    if share <= WORTH:
        return []
    line, best, asked = f"probes took {percent(share)} of this run", share, every
    plain = seconds - inside - cost.beside
    while best > WORTH and (asked := 2 * asked) < end and cost.looks:
        fewer = inside / cost.looks * looks(asked, begin, end) + cost.beside
        if fewer / (plain + fewer) < best:
            best, every = fewer / (plain + fewer), asked
    if percent(best) != percent(share):
        line += f"; probe.every={every} would take {percent(best)}"
    return [line]


def slowed(cost: Cost, seconds: float, steps: int) -> float:
    """Seconds that looks add to the steps they record; rather too few, since the other steps are
    taken to have all the rest of the time, and so the validations too."""
    rest = seconds - cost.inside - cost.beside - cost.steps
    return max(cost.steps - cost.looks * rest / max(steps - cost.looks, 1), 0.0)


def percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else "100 %"
