"""R runs as one: models stacked on a leading run axis, trained by the ordinary Trainer. The only
file with torch.func.

Models are built and initialised one by one, then stacked, so every initialiser works unchanged.
Runs share no weight, so one `losses.backward(ones(R))` gives each its own gradient. Equal to R
separate runs up to the order of additions (1e-9 over 100 steps in float64), never bit for bit. R
runs, B batch, F features.
"""

from collections.abc import Callable, Sequence
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional

from trainlab.errors import ConfigError
from trainlab.train import spread
from trainlab.world import stream

ELEMENTWISE = (nn.ReLU, nn.ELU, nn.Tanh, nn.Sigmoid, nn.Identity)  # no weight, no batch


def stack(models: Sequence[nn.Module], seeds: Sequence[int]) -> nn.Module:
    """R models of one structure -> one module, (R, B, ...) -> (R, B, K). Dropout follows each
    run's own stream."""
    dropout = [stream(seed, "dropout") for seed in seeds]
    return stacked(models[0], list(models), dropout)


def lift(function: Callable) -> Callable:
    """A pure function of one run -> the same function of R runs, each argument with a leading R."""
    return vmap(function)


@singledispatch
def stacked(first: nn.Module, models: list[nn.Module], dropout: list[torch.Generator]) -> nn.Module:
    """What replaces `models`, chosen by the type of the first. Raises ConfigError for what cannot
    be stacked."""
    if isinstance(first, ELEMENTWISE):
        return first
    raise ConfigError(
        f"{type(first).__name__} does not stack (Linear, elementwise activations, batch norm and "
        "dropout do); run the seeds one by one"
    )


@stacked.register
def _(first: nn.Sequential, models: list[nn.Module], dropout: list[torch.Generator]) -> nn.Module:
    layers = {
        name: stacked(child, [model.get_submodule(name) for model in models], dropout)
        for name, child in first.named_children()
    }
    sequence = nn.Sequential()
    for name, layer in layers.items():
        sequence.add_module(name, layer)
    return sequence


@stacked.register
def _(first: nn.Flatten, models: list[nn.Module], dropout: list[torch.Generator]) -> nn.Module:
    return nn.Flatten(2)


@stacked.register
def _(first: nn.Linear, models: list[nn.Module], dropout: list[torch.Generator]) -> nn.Module:
    return Linear(models)


@stacked.register
def _(first: nn.BatchNorm1d, models: list[nn.Module], dropout: list[torch.Generator]) -> nn.Module:
    return BatchNorm(models)


@stacked.register
def _(first: nn.Dropout, models: list[nn.Module], dropout: list[torch.Generator]) -> nn.Module:
    return Dropout(first.p, dropout)


def together(tensors: Sequence[Tensor]) -> Tensor:
    """R tensors -> (R, ...), contiguous with the run axis first: in-place buffer updates need
    that."""
    return torch.stack([t.detach() for t in tensors]).contiguous()


class Linear(nn.Module):
    """(R, B, F) -> (R, B, G) by one batched product."""

    def __init__(self, layers: Sequence[nn.Linear]):
        super().__init__()
        self.weight = nn.Parameter(together([layer.weight for layer in layers]))  # (R, G, F)
        self.bias = None
        if layers[0].bias is not None:
            self.bias = nn.Parameter(together([layer.bias for layer in layers]))  # (R, G)

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return torch.bmm(x, self.weight.mT)
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.mT)


class BatchNorm(nn.Module):
    """(R, B, F): torch's own batch norm on R * F features, so its running statistics are torch's
    too."""

    def __init__(self, layers: Sequence[nn.BatchNorm1d]):
        super().__init__()
        self.weight = nn.Parameter(together([layer.weight for layer in layers]))  # (R, F)
        self.bias = nn.Parameter(together([layer.bias for layer in layers]))
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, together([getattr(layer, name) for layer in layers]))
        self.momentum, self.eps = layers[0].momentum, layers[0].eps

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked += 1
        runs, batch, width = x.shape
        packed = functional.batch_norm(
            x.transpose(0, 1).reshape(batch, runs * width),
            self.running_mean.view(-1), self.running_var.view(-1),
            self.weight.view(-1), self.bias.view(-1),
            self.training, self.momentum, self.eps,
        )  # fmt: skip
        return packed.view(batch, runs, width).transpose(0, 1)


class Dropout(nn.Module):
    """(R, B, F): run r draws its mask from its own generator, as it would alone."""

    def __init__(self, p: float, generators: Sequence[torch.Generator]):
        super().__init__()
        self.p, self.generators = p, list(generators)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = torch.empty_like(x)
        for mask, generator in zip(keep, self.generators, strict=True):
            mask.bernoulli_(1 - self.p, generator=generator)
        return x * keep.div_(1 - self.p)


class Optimizer:
    """Any torch optimizer whose step is proportional to lr, for R learning rates: torch's own step
    at lr 1, of which run r keeps the fraction lr_r. `make(params, lr=1.0)` builds it; `lrs` is
    (R,)."""

    def __init__(
        self,
        params: Sequence[nn.Parameter],
        make: Callable[..., torch.optim.Optimizer],
        lrs: Tensor,
    ):
        self.params = list(params)
        self.inner = make(self.params, lr=1.0)
        self.param_groups: list[dict[str, Any]] = [{"lr": lrs}]
        self.zero_grad = self.inner.zero_grad

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        before = [p.detach().clone() for p in self.params]
        losses = self.inner.step(closure)
        with torch.no_grad():
            for p, old in zip(self.params, before, strict=True):
                p.copy_(old + spread(self.param_groups[0]["lr"], p) * (p - old))
        return losses

    def state_dict(self) -> dict:
        return self.inner.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.inner.load_state_dict(state)
