"""Learning-rate schedules: (step, steps) -> factor on lr, in fractions of the training. Named by
conf/schedule/.

Pure functions of the position, so they have no state to save and mean the same for every length of
training.
"""

import math
from collections.abc import Sequence


def constant(step: int, steps: int) -> float:
    """Always 1."""
    return 1.0


def step(step: int, steps: int, drops: Sequence[float] = (0.5, 0.75), factor: float = 0.1) -> float:
    """Multiplied by `factor` at each of `drops` (fractions of the training), as in He et al.
    2016."""
    return factor ** sum(step >= drop * steps for drop in drops)


def cosine(step: int, steps: int, final: float = 0.0) -> float:
    """Loshchilov and Hutter 2017, equation 5 without restarts: from 1 down to `final`."""
    return final + (1 - final) * (1 + math.cos(math.pi * step / steps)) / 2


def warmup_cosine(step: int, steps: int, warmup: float = 0.1, final: float = 0.0) -> float:
    """Goyal et al. 2017: linear up to 1 over the first `warmup` of the training, then cosine down
    to `final`."""
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return cosine(step - rising, max(steps - rising, 1), final)
