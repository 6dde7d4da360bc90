"""What is added to the loss. A pure function of one run; lifted over R runs for a stack."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Elastic:
    """l1 * sum of absolute values + l2 / 2 * sum of squares, ().

    Tibshirani 1996 (l1 alone, the lasso), Zou and Hastie 2005 (both, the elastic net). The gradient
    of the second term, l2 * w, is SGD's `weight_decay`.
    """

    l1: float = 0.0
    l2: float = 0.0

    def __call__(self, params: Sequence[Tensor]) -> Tensor:
        return sum(self.parts(params).values())

    def parts(self, params: Sequence[Tensor]) -> dict[str, Tensor]:
        """What each strength that is not 0 adds, ()."""
        terms = {}
        if self.l1:
            terms["l1"] = self.l1 * torch.stack([p.abs().sum() for p in params]).sum()
        if self.l2:
            terms["l2"] = self.l2 / 2 * torch.stack([p.square().sum() for p in params]).sum()
        return terms
