"""What is added to the loss, and what bounds its gradient. Pure functions of one run; lifted over
R runs for a stack."""

from collections.abc import Sequence

import torch
from torch import Tensor


def l2(params: Sequence[Tensor], strength: float) -> Tensor:
    """strength / 2 * sum of squares, (): its gradient, strength * w, is SGD's `weight_decay`."""
    return strength / 2 * sum(p.square().sum() for p in params)


def l1(params: Sequence[Tensor], strength: float) -> Tensor:
    """strength * sum of absolute values, (). Tibshirani 1996 (the lasso); with l2 the elastic net
    of Zou and Hastie 2005."""
    return strength * sum(p.abs().sum() for p in params)


def clip_factor(grads: Sequence[Tensor], norm: float) -> Tensor:
    """What the gradients must be multiplied with, (), so that their joint L2 norm is at most
    `norm`.

    Pascanu et al. 2013, https://arxiv.org/abs/1211.5063; the arithmetic is that of
    torch.nn.utils.clip_grad_norm_.
    """
    total = torch.stack([torch.linalg.vector_norm(g) for g in grads])
    return (norm / (torch.linalg.vector_norm(total) + 1e-6)).clamp(max=1.0)
