"""What is added to the loss. A pure function of one run; lifted over R runs for a stack."""

from collections.abc import Sequence

import torch
from torch import Tensor


def elastic(params: Sequence[Tensor], l1: float = 0.0, l2: float = 0.0) -> Tensor:
    """l1 * sum of absolute values + l2 / 2 * sum of squares, ().

    Tibshirani 1996 (l1 alone, the lasso), Zou and Hastie 2005 (both, the elastic net). The gradient
    of the second term, l2 * w, is SGD's `weight_decay`.
    """
    terms = [l1 * torch.stack([p.abs().sum() for p in params]).sum()] if l1 else []
    terms += [l2 / 2 * torch.stack([p.square().sum() for p in params]).sum()] if l2 else []
    return sum(terms)
