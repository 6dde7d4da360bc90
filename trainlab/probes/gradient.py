"""Norms of gradients, before clipping. Named by conf/probe/."""

import torch
from torch import Tensor

from trainlab.taps import Histogram, Sight, histogram


def gradient(sight: Sight) -> dict[str, Tensor | Histogram]:
    """L2 norm of the objective's gradient in each activation (of the mean over the batch) and each
    parameter; histograms for the weights with two or more dimensions."""
    layers = [layer for layer in sight.layers if layer.grad is not None]
    norms = torch._foreach_norm([layer.grad for layer in layers] + list(sight.grads.values()))
    tags = [f"gradient_norm/{layer.name}" for layer in layers]
    tags += [f"weight_gradient_norm/{name}" for name in sight.grads]
    seen: dict[str, Tensor | Histogram] = dict(zip(tags, norms, strict=True))
    matrices = {name: g for name, g in sight.grads.items() if g.dim() > 1}
    return seen | {f"weight_gradient/{name}": histogram(g) for name, g in matrices.items()}
