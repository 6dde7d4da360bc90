"""Learning-rate schedules: (step, steps) -> factor on lr, in fractions of the training. Named by
conf/schedule/.

Pure functions of the position, so they have no state to save and mean the same for every length of
training. lr itself is the highest value. Where torch has the same curve the tests compare.
"""

import bisect
import functools
import inspect
import math
from collections.abc import Callable, Sequence

from trainlab.errors import ConfigError
from trainlab.training.trainer import FollowsHistory


def warmed(body: Callable[..., float]) -> Callable[..., float]:
    """`body` with a key more, `warmup`: linear up to where `body` starts, over that
    fraction of the training, as in Goyal et al. 2017, https://arxiv.org/abs/1706.02677; `body` runs
    over what is left, so its own fractions are of that."""
    own = inspect.signature(body)
    key = inspect.Parameter("warmup", inspect.Parameter.KEYWORD_ONLY, default=0.0, annotation=float)

    @functools.wraps(body)
    def schedule(step: int, steps: int, *, warmup: float = 0.0, **keys) -> float:
        rising = math.ceil(warmup * steps)
        if step < rising:
            return (step + 1) / rising * body(0, max(steps - rising, 1), **keys)
        return body(step - rising, max(steps - rising, 1), **keys)

    schedule.__signature__ = own.replace(parameters=[*own.parameters.values(), key])
    return schedule


@warmed
def constant(step: int, steps: int) -> float:
    """Always 1."""
    return 1.0


@warmed
def step(step: int, steps: int, drops: Sequence[float] = (0.5, 0.75), factor: float = 0.1) -> float:
    """Multiplied by `factor` at each of `drops` (fractions of the training), as in He et al.
    2016."""
    return factor ** sum(step >= drop * steps for drop in drops)


@warmed
def cosine(step: int, steps: int, final: float = 0.0) -> float:
    """Loshchilov and Hutter 2017, equation 5 without restarts: from 1 down to `final`."""
    return final + (1 - final) * (1 + math.cos(math.pi * step / steps)) / 2


def warmup_cosine(step: int, steps: int, warmup: float = 0.1, final: float = 0.0) -> float:
    """Goyal et al. 2017: linear up to 1 over the first `warmup` of the training, then cosine down
    to `final`."""
    return cosine(step, steps, warmup=warmup, final=final)


@warmed
def exponential(step: int, steps: int, final: float = 0.01) -> float:
    """By the same factor each step, from 1 towards `final` > 0: lr exp(-k t)."""
    if final <= 0:
        raise ConfigError(
            "schedule.final = 0: an exponential never gets there; use schedule.final=0.01, or "
            "schedule=linear"
        )
    return final ** (step / steps)


@warmed
def inverse_time(step: int, steps: int, rate: float = 9.0) -> float:
    """1 / (1 + rate t), t from 0 to 1: ends near 1 / (1 + rate)."""
    return 1 / (1 + rate * step / steps)


@warmed
def inverse_sqrt(step: int, steps: int, rate: float = 9.0) -> float:
    """1 / sqrt(1 + rate t), t from 0 to 1. After a warm-up over the fraction w, rate = (1 - w) / w
    is sqrt(w / time), as in Vaswani et al. 2017."""
    return (1 + rate * step / steps) ** -0.5


@warmed
def linear(step: int, steps: int, final: float = 0.0) -> float:
    """A straight line from 1 to `final`."""
    return 1 + (final - 1) * step / steps


@warmed
def polynomial(step: int, steps: int, power: float = 2.0, final: float = 0.0) -> float:
    """final + (1 - final) (1 - t)^power, t from 0 to 1."""
    return final + (1 - final) * (1 - step / steps) ** power


@warmed
def cosine_restarts(
    step: int, steps: int, cycles: int = 3, growth: float = 2.0, final: float = 0.0
) -> float:
    """`cycles` cosines from 1 to `final`, each `growth` times as long as the one before, that fill
    the training together."""
    lengths = [growth**k for k in range(cycles)]
    left = step / steps * sum(lengths)
    for length in lengths[:-1]:
        if left < length * (1 - 1e-12):  # a restart that falls on a step happens at that step
            break
        left = max(left - length, 0.0)
    else:
        length = lengths[-1]
    return final + (1 - final) * (1 + math.cos(math.pi * min(left / length, 1.0))) / 2


@warmed
def one_cycle(
    step: int, steps: int, peak: float = 0.3, start: float = 0.04, final: float = 4e-6
) -> float:
    """Cosine from `start` up to 1 at the fraction `peak`, cosine down to `final` at the last step.

    The paper moves momentum the other way round meanwhile; here only lr moves.
    """
    top, last = max(peak * steps - 1, 0.0), steps - 1
    if step < top:
        low, share = start, step / top
    else:
        low, share = final, 1 - (step - top) / max(last - top, 1e-12)
    return low + (1 - low) * (1 - math.cos(math.pi * min(max(share, 0.0), 1.0))) / 2


@warmed
def cyclic(step: int, steps: int, cycles: int = 4, low: float = 0.1) -> float:
    """`cycles` triangles: from `low` up to 1 and down again."""
    at = step / steps * cycles % 1
    return low + (1 - low) * (1 - abs(2 * at - 1))


@warmed
def warmup_stable_decay(step: int, steps: int, decay: float = 0.2, final: float = 0.0) -> float:
    """1, then linearly down to `final` over the last `decay`; the warm-up is the key every schedule
    has."""
    return 1 + (final - 1) * max(0.0, (step / steps - 1) / decay + 1)


@warmed
def piecewise(
    step: int,
    steps: int,
    at: Sequence[float] = (0.0, 0.2, 1.0),
    factors: Sequence[float] = (0.1, 1.0, 0.0),
) -> float:
    """Straight lines between the points (at, factor); one position twice is a jump.

    Raises ConfigError unless `at` rises and has one factor for each position.
    """
    if len(at) != len(factors) or not at or list(at) != sorted(at):
        raise ConfigError(
            f"schedule.at = {list(at)}: must rise, with one of schedule.factors = {list(factors)} "
            "for each; use schedule.at=[0,0.2,1] schedule.factors=[0.1,1,0]"
        )
    here = step / steps
    right = bisect.bisect_right(at, here)
    if right in (0, len(at)):
        return float(factors[max(right - 1, 0)])
    (a, b), (x, y) = at[right - 1 : right + 1], factors[right - 1 : right + 1]
    return x + (y - x) * (here - a) / (b - a)


def plateau(
    warmup: float = 0.0,
    factor: float = 0.1,
    patience: int = 5,
    threshold: float = 1e-4,
    cooldown: int = 0,
    final: float = 0.0,
) -> FollowsHistory:
    """Multiplied by `factor`, down to `final`, whenever the monitored figure has not improved for
    more than `patience` evaluations; torch's ReduceLROnPlateau with threshold_mode="abs".

    An improvement is one of more than `threshold`; for `cooldown` evaluations after a drop nothing
    is counted.
    """
    keys = {"factor": factor, "patience": patience, "threshold": threshold}
    keys |= {"cooldown": cooldown, "final": final}
    return FollowsHistory(functools.partial(_plateau, warmup=warmup, **keys))


@warmed
def _plateau(
    step: int,
    steps: int,
    history: Sequence[tuple[int, float]],
    factor: float,
    patience: int,
    threshold: float,
    cooldown: int,
    final: float,
) -> float:
    best, bad, resting, now = math.inf, 0, 0, 1.0
    for _, value in history:
        if value < best - threshold:
            best, bad = value, 0
        else:
            bad += 1
        if resting > 0:
            resting, bad = resting - 1, 0
        if bad > patience:
            now, resting, bad = max(now * factor, final), cooldown, 0
    return now
