"""What bounds a gradient. Pure functions of one run, (grads, params) -> (new grads, clipped share,
()); lifted over R runs for a stack. The share stays on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor

Clipped = tuple[list[Tensor], Tensor]


def by_norm(grads: Sequence[Tensor], params: Sequence[Tensor], norm: float) -> Clipped:
    """All by one factor, so that their joint L2 norm is at most `norm`; the share is 1 or 0.

    Pascanu et al. 2013, https://arxiv.org/abs/1211.5063; the arithmetic is that of
    torch.nn.utils.clip_grad_norm_.
    """
    total = torch.stack([torch.linalg.vector_norm(g) for g in grads])
    factor = norm / (torch.linalg.vector_norm(total) + 1e-6)
    return [g * factor.clamp(max=1.0) for g in grads], (factor < 1).to(factor.dtype)


def by_value(grads: Sequence[Tensor], params: Sequence[Tensor], value: float) -> Clipped:
    """Each element into [-value, value]; the share is that of the elements that were outside."""
    outside = sum((g.abs() > value).sum() for g in grads)
    return [g.clamp(-value, value) for g in grads], outside / sum(g.numel() for g in grads)


def adaptively(
    grads: Sequence[Tensor], params: Sequence[Tensor], factor: float, eps: float = 1e-3
) -> Clipped:
    """Unit by unit, so that |g| is at most factor * max(|w|, eps); the share is that of the units.

    Brock et al. 2021, equation 3, https://arxiv.org/abs/2102.06171. A unit is a row (all dims but
    the first); what has one dim is one unit. The paper leaves the head out: don't hand it over.
    """
    clipped, count, units = [], torch.zeros(()), 1e-9
    for g, w in zip(grads, params, strict=True):
        dims = tuple(range(1, g.dim())) or None
        mine = torch.linalg.vector_norm(g, dim=dims, keepdim=True)
        limit = factor * torch.linalg.vector_norm(w, dim=dims, keepdim=True).clamp(min=eps)
        above = mine > limit
        clipped.append(torch.where(above, g * (limit / mine), g))
        count, units = count + above.sum(), units + above.numel()
    return clipped, count / units
