"""The curve that a schedule gives over a whole training. Without torch: the doctor reads it too."""

from collections.abc import Callable, Sequence

PLACES = 200  # of the training, at which a curve of factors is sampled
LOW, EARLY = 0.01, 0.2  # of the peak; of the training


def sampled(schedule: Callable[[int, int], float], steps: int) -> list[float]:
    """The factors at PLACES steps of the training, or a few more, evenly apart."""
    return [schedule(step, steps) for step in range(0, steps, max(steps // PLACES, 1))]


def ends_early(curve: Sequence[float]) -> float | None:
    """The share of the training after which lr stays below LOW of its peak, where that is EARLY or
    less, as when factors meant for epochs are counted in steps; else None, as of few places."""
    top = max(curve, default=0.0)
    if len(curve) < 20 or not top > 0:
        return None
    last = max(place for place, factor in enumerate(curve) if factor > LOW * top)
    share = (last + 1) / len(curve)
    return share if share <= EARLY else None
