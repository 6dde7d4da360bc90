"""How the forward pass is run: precision, compilation, memory layout. Each changes the bits, so all
are off by default. B batch, K classes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from trainlab.errors import ConfigError

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def forward(
    model: nn.Module, precision: str, compiled: bool, channels_last: bool
) -> Callable[[Tensor], Tensor]:
    """x (B, ...) -> logits (B, K) in float32, by `model`, whose weights stay float32.

    bf16, fp16: torch.autocast (Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740); fp16
    wants a `scaler` too. tf32 is torch's global switch, see world.join. channels_last lays the
    model's convolutions out anew, in place. compiled: torch.compile, at the first call.
    """
    device = next(model.parameters()).device
    if channels_last:
        model.to(memory_format=torch.channels_last)
    call = torch.compile(model) if compiled else model
    half = HALF.get(precision)

    def run(x: Tensor) -> Tensor:
        if channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        if half is None:
            return call(x)
        with torch.autocast(device.type, half):
            return call(x).float()

    return run


def scaler(device: torch.device, optimizer: torch.optim.Optimizer) -> torch.amp.GradScaler:
    """For fp16, whose small gradients would be 0: the loss is multiplied by a number that grows and
    shrinks, and a step with infinite gradients is left out. It waits for the device every step."""
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ConfigError(
            "precision = fp16: optim=lbfgs asks for the loss many times a step; use precision=bf16"
        )
    return torch.amp.GradScaler(device.type)
