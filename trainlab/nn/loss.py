"""Losses beside torch's cross-entropy. Named by conf/loss/. B batch, K classes.

Each takes logits (B, K) and class numbers y (B,) int64 and returns the mean over the batch, ().
Where all logits are equal, as before any training, it is what each docstring says.
"""

import torch
from torch import Tensor
from torch.nn import functional

from trainlab.errors import ConfigError


def hinge(logits: Tensor, y: Tensor, margin: float = 1.0) -> Tensor:
    """Weston and Watkins 1999: sum over the wrong classes j of max(0, z_j - z_y + margin).

    Equal logits: (K - 1) margin. Floor: 0.
    """
    return _violations(logits, y, margin).sum(1).mean()


def squared_hinge(logits: Tensor, y: Tensor, margin: float = 1.0) -> Tensor:
    """Tang 2013, https://arxiv.org/abs/1306.0239: the violations of `hinge`, squared.

    Equal logits: (K - 1) margin^2. Floor: 0.
    """
    return _violations(logits, y, margin).square().sum(1).mean()


def mse(logits: Tensor, y: Tensor) -> Tensor:
    """Mean over B and K of (z - t)^2, t one-hot, or the shares of classes y (B, K) themselves.

    Hui and Belkin 2021, https://arxiv.org/abs/2006.07322. Logits all 0: 1 / K. Floor: 0.
    """
    shares = y if y.is_floating_point() else functional.one_hot(y, logits.shape[-1])
    return (logits - shares).square().mean()


def focal(logits: Tensor, y: Tensor, gamma: float = 2.0) -> Tensor:
    """Lin et al. 2017, https://arxiv.org/abs/1708.02002, equation 4: -(1 - p_y)^gamma ln p_y.

    Equal logits: (1 - 1/K)^gamma ln K. Floor: 0. gamma = 0 is cross-entropy.
    """
    log_p = _of_class(logits.log_softmax(1), y).squeeze(1)  # (B,)
    wrong = -torch.expm1(log_p)  # 1 - p, exact where p is near 1
    wrong = wrong.clamp_min(torch.finfo(wrong.dtype).tiny)  # 0^gamma has no slope for gamma < 1
    return -(wrong**gamma * log_p).mean()


def _of_class(values: Tensor, y: Tensor) -> Tensor:
    """values (B, K) at y (B,): (B, 1)."""
    if y.is_floating_point():
        raise ConfigError(
            "loss: takes class numbers, and augment=mixup or cutmix gives shares of classes; "
            "use loss=cross_entropy or loss=mse"
        )
    return values.gather(1, y.unsqueeze(1))


def _violations(logits: Tensor, y: Tensor, margin: float) -> Tensor:
    """max(0, z_j - z_y + margin) of every wrong class j, 0 of the right one: (B, K)."""
    above = (logits - _of_class(logits, y) + margin).clamp_min(0)
    return above.scatter(1, y.unsqueeze(1), 0.0)
