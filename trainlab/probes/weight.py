"""The size of the weights. Named by conf/probe/."""

import torch
from torch import Tensor

from trainlab.taps import Histogram, Sight, histogram


def weight(sight: Sight) -> dict[str, Tensor | Histogram]:
    """L2 norm of each parameter before the step, and a histogram of each weight matrix."""
    norms = torch._foreach_norm(list(sight.params.values()))
    tags = [f"weight_norm/{name}" for name in sight.params]
    seen: dict[str, Tensor | Histogram] = dict(zip(tags, norms, strict=True))
    matrices = {name: w for name, w in sight.params.items() if w.dim() > 1}
    return seen | {f"weight/{name}": histogram(w) for name, w in matrices.items()}
