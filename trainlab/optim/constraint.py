"""What holds for the weights after every step. Pure functions of one run: weights -> the factors,
(N, 1, ...) each, that they must be multiplied with; lifted over R runs for a stack.

A unit's incoming weights are all dims but the first, of weights (N, ...) with two dims or more.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def max_norm(weights: Sequence[Tensor], norm: float) -> list[Tensor]:
    """So that no unit's incoming weights have an L2 norm above `norm`.

    Srivastava et al. 2014, section 5.1, https://jmlr.org/papers/v15/srivastava14a.html
    """
    return [(norm / unit_norms(w)).clamp(max=1.0) for w in weights]


def unit_norm(weights: Sequence[Tensor]) -> list[Tensor]:
    """So that every unit's incoming weights have L2 norm 1; weights that are all zero stay."""
    norms = [unit_norms(w) for w in weights]
    return [torch.where(n > 0, 1 / n, 1.0) for n in norms]


def unit_norms(weight: Tensor) -> Tensor:
    """(N, ...) -> (N, 1, ...): the L2 norm of each unit's incoming weights."""
    return torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.dim())), keepdim=True)
