"""Learning-rate schedules: (step, steps) -> factor on lr, in fractions of the training. Named by
conf/schedule/.

Pure functions of the position, so they have no state to save and mean the same for every length of
training. Those that are used less often stand in curves.py.
"""

import functools
import inspect
import math
from collections.abc import Callable, Sequence


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
