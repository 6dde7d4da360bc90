"""How far one step moves the weights. Named by conf/probe/."""

import torch
from torch import Tensor

from trainlab.taps import Sight


def update(sight: Sight) -> dict[str, Tensor]:
    """norm(update) / norm(weight before it), for any optimizer; 1e-3 is healthy (CS231n notes 3).

    Weights with two or more dimensions only: a bias starts at 0. A weight that is 0 has inf, or nan
    if it stays 0.
    """
    names = [name for name, change in sight.updates.items() if change.dim() > 1]
    if not names:
        return {}
    moved = torch._foreach_norm([sight.updates[name] for name in names])
    size = torch._foreach_norm([sight.params[name] for name in names])
    ratios = torch._foreach_div(moved, size)
    return {f"update_ratio/{name}": ratio for name, ratio in zip(names, ratios, strict=True)}
