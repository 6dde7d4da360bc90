"""Averages of the weights along the training, {name: tensor} as state_dict() gives them.

Both are updated in place after a step and hold nothing but the average, so a checkpoint needs its
tensors only. What is no floating-point number (a batch counter) is copied.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainlab.training.trainer import evaluating

Weights = Mapping[str, Tensor]


@torch.no_grad()
def start(weights: Weights) -> dict[str, Tensor]:
    """The average before the first step: a copy."""
    return {name: w.detach().clone() for name, w in weights.items()}


@dataclass(frozen=True)
class Ema:
    """average = decay average + (1 - decay) weights, bias-corrected: after step 1 it is the weights
    of step 1, and the weights before the first step never count. step: 1, 2, ...

    The corrected average is kept itself, which is the same as Adam's m / (1 - decay^step)
    (Kingma and Ba 2015, section 3, https://arxiv.org/abs/1412.6980).
    """

    decay: float

    def __call__(self, average: Weights, weights: Weights, step: int) -> None:
        share = (1 - self.decay) / -math.expm1(step * math.log(self.decay))
        _towards(average, weights, share)


@dataclass(frozen=True)
class Swa:
    """The mean of the weights after each step beyond `begin` (a fraction of `steps`); before that
    the latest weights. step: 1, 2, ...

    Izmailov et al. 2018, https://arxiv.org/abs/1803.05407, with every step averaged. Batch norm
    needs `refresh` before the average is used.
    """

    steps: int
    begin: float

    def __call__(self, average: Weights, weights: Weights, step: int) -> None:
        count = step - min(math.floor(self.begin * self.steps), self.steps - 1)
        _towards(average, weights, 1 / max(count, 1))


@torch.no_grad()
def _towards(average: Weights, weights: Weights, share: float) -> None:
    real = [name for name, w in weights.items() if w.is_floating_point()]
    torch._foreach_lerp_([average[n] for n in real], [weights[n].detach() for n in real], share)
    for name in weights.keys() - set(real):
        average[name].copy_(weights[name])


@torch.no_grad()
def refresh(model: nn.Module, inputs: Iterable[Tensor]) -> None:
    """Batch-norm statistics over `inputs`, (B, ...) each, with the weights as they are: the mean
    over the batches, weighted by their sizes (torch.optim.swa_utils.update_bn gives a short last
    batch as much). Frozen norms are left alone, dropout is off, every module has its own mode
    afterwards."""
    norms = {
        m: m.momentum
        for m in model.modules()
        if getattr(m, "running_mean", None) is not None
        and (m.weight is None or m.weight.requires_grad)
    }
    with evaluating(model):
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
        try:
            seen = 0
            for x in inputs if norms else ():
                seen += len(x)
                for norm in norms:
                    norm.momentum = len(x) / seen
                model(x)
        finally:
            for norm, momentum in norms.items():
                norm.momentum = momentum
