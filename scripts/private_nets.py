"""Networks as people write them by hand, for scripts/fault_benchmark.py: layers of their own,
functional and in-place activations, no module that trainlab knows. B batch, K classes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Dense(nn.Module):
    """x @ weight.T + bias, He et al. 2015."""

    def __init__(self, inputs: int, outputs: int, gain: float = math.sqrt(2)):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * gain / math.sqrt(inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.t() + self.bias


class Handmade(nn.Module):
    """(B, ...) -> logits (B, K): functional ReLU, in place."""

    def __init__(self, inputs: int, classes: int, widths: Sequence[int]):
        super().__init__()
        sizes = [inputs, *widths]
        self.blocks = nn.ModuleList(map(Dense, sizes, widths))
        self.out = Dense(sizes[-1], classes, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for block in self.blocks:
            x = functional.relu_(block(x))
        return self.out(x)


def handmade(
    inputs: Sequence[int], classes: int, activation: Callable, norm: Callable, **settings: Any
) -> nn.Module:
    """As conf/model/mlp.yaml is called; activation and norm are its own."""
    return Handmade(math.prod(inputs), classes, settings["widths"])
