"""Weight initialisers. Named by conf/init/.

The rules themselves are torch.nn.init's; this says which tensors they are for.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


@torch.no_grad()
def initialise(
    model: nn.Module, x: Tensor, *, weight: Callable[[Tensor], Tensor], bias: float = 0.0
) -> None:
    """Draw every weight of two or more dimensions by `weight`, set the biases beside them to
    `bias`, in place.

    x (B, ...) is a batch of training images, for rules that look at the data. Norm layers keep
    gain 1, shift 0.
    """
    for module in model.modules():
        if (
            isinstance(module.__dict__["_parameters"].get("weight"), Tensor)
            and module.weight.dim() >= 2
        ):
            weight(module.weight)
            if isinstance(getattr(module, "bias", None), Tensor):
                nn.init.constant_(module.bias, bias)


def torch_default(model: nn.Module, x: Tensor) -> None:
    """What torch's layers drew when they were built (He et al. 2015 uniform with a = sqrt(5); bias
    likewise)."""
