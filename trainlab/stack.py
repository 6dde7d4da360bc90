"""R runs as one: models stacked on a leading run axis, trained by the ordinary Trainer. The only
file with torch.func.

Models are built and initialised one by one, then stacked, so every initialiser works unchanged.
Runs share no weight, so one `losses.backward(ones(R))` gives each its own gradient. Equal to R
separate runs up to the order of additions (1e-9 over 100 steps in float64), never bit for bit. R
runs, B batch, F features.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.func import functional_call, vmap
from torch.nn import functional
from torch.nn.utils.parametrize import is_parametrized

from trainlab.errors import ConfigError
from trainlab.train import spread
from trainlab.world import stream

# no weight, and the same for every number: nothing to map
ELEMENTWISE = (
    nn.ReLU, nn.ELU, nn.Tanh, nn.Sigmoid, nn.Identity, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Mish,
    nn.SELU, nn.CELU, nn.Softplus, nn.Softsign, nn.ReLU6, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish,
)  # fmt: skip
RANDOM = nn.RReLU, nn.modules.dropout._DropoutNd
# each number by itself, in proportion to lr; optimizers of our own say `elementwise = True`
OPTIMIZERS = (
    optim.SGD, optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam, optim.Adamax, optim.RMSprop,
    optim.Adagrad, optim.Adadelta,
)  # fmt: skip


def stack(models: Sequence[nn.Module], seeds: Sequence[int]) -> nn.Module:
    """R models of one structure -> one module, (R, B, ...) -> (R, B, K).

    Dropout follows each run's own stream. Raises ConfigError for what cannot be stacked.
    """
    return _stacked(list(models), [stream(seed, "dropout") for seed in seeds])


def lift(function: Callable) -> Callable:
    """A pure function of one run -> the same function of R runs, each argument with a leading R."""
    return vmap(function)


def _stacked(models: list[nn.Module], dropout: list[torch.Generator]) -> nn.Module:
    first, kind = models[0], _kind(models[0])
    for model in models:
        if _kind(model) is not kind or repr(model) != repr(first):
            raise ConfigError(f"runs of a stack differ: {first} and {model}; run them one by one")
    if kind is nn.Sequential:
        names = [name for name, _ in first.named_children()]
        layers = [_stacked([m.get_submodule(name) for m in models], dropout) for name in names]
        return nn.Sequential(OrderedDict(zip(names, layers, strict=True)))
    if kind is nn.Linear and type(first) is kind:
        return Linear(models)
    if kind in (nn.BatchNorm1d, nn.BatchNorm2d) and first.affine and first.track_running_stats:
        return BatchNorm(models)
    if kind is nn.Dropout:
        return Dropout(first.p, dropout)
    if kind is nn.Flatten:
        return nn.Flatten(2)
    if kind in ELEMENTWISE:
        return first
    for module in first.modules():
        if isinstance(module, RANDOM) or getattr(module, "random", False):
            raise _refused(module, "draws at random, and each run must follow its own stream")
        if is_parametrized(module):
            raise _refused(first, "computes its weight by a product that torch cannot batch")
        if any(b is not None for b in module._buffers.values()):
            raise _refused(module, "holds running figures, which are not kept apart by run here")
    return Mapped(models)


def _kind(module: nn.Module) -> type:
    """Its class; torch gives every parametrized module (weight norm) a class of its own."""
    return type(module).__mro__[1] if is_parametrized(module) else type(module)


def _refused(module: nn.Module, reason: str) -> ConfigError:
    return ConfigError(f"{type(module).__name__} does not stack: it {reason}; run one by one")


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


class Mapped(nn.Module):
    """Any module without running figures or randomness, (R, B, ...): torch.func maps it over its R
    sets of parameters."""

    def __init__(self, models: Sequence[nn.Module]):
        super().__init__()
        self.one = [models[0]]  # in a list, so that its own parameters are not found
        self.names = {name: name.replace(".", "/") for name, _ in models[0].named_parameters()}
        for name, own in self.names.items():
            values = together([model.get_parameter(name) for model in models])
            self.register_parameter(own, nn.Parameter(values))

    def forward(self, x: Tensor) -> Tensor:
        params = {name: getattr(self, own) for name, own in self.names.items()}
        return vmap(partial(functional_call, self.one[0]))(params, x)


class BatchNorm(nn.Module):
    """(R, B, F) or (R, B, C, H, W): torch's own batch norm on R * F features or R * C channels, so
    its running statistics are torch's too."""

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
        packed = functional.batch_norm(
            x.transpose(0, 1).flatten(1, 2),
            self.running_mean.view(-1), self.running_var.view(-1),
            self.weight.view(-1), self.bias.view(-1),
            self.training, self.momentum, self.eps,
        )  # fmt: skip
        return packed.unflatten(1, (len(x), -1)).transpose(0, 1)


class Dropout(nn.Module):
    """(R, B, F): run r draws its mask from its own generator, as it would alone."""

    def __init__(self, p: float, generators: Sequence[torch.Generator]):
        super().__init__()
        self.p, self.generators = p, list(generators)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = torch.empty_like(x, device=self.generators[0].device)
        for mask, generator in zip(keep, self.generators, strict=True):
            mask.bernoulli_(1 - self.p, generator=generator)
        return x * keep.div_(1 - self.p).to(x.device)

    def get_extra_state(self) -> Tensor:
        """Where each generator stands, (R, bytes): part of a checkpoint."""
        return torch.stack([generator.get_state() for generator in self.generators])

    def set_extra_state(self, state: Tensor) -> None:
        for generator, own in zip(self.generators, state.cpu(), strict=True):
            generator.set_state(own.clone())  # a view of another tensor crashes torch


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
        kind = type(self.inner)
        if kind not in OPTIMIZERS and not getattr(kind, "elementwise", False):
            raise ConfigError(
                f"{kind.__name__} does not stack: its step mixes the numbers of a tensor, or is "
                "not in proportion to lr; run one by one"
            )
        self.param_groups: list[dict[str, Any]] = [{"lr": lrs, "params": self.params}]
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
