"""R models of one structure -> one module, (R, B, ...) -> (R, B, K).

Each layer that has a stacked form is replaced by it, a module that only adds and multiplies what
its parts put out keeps its own forward, and torch.func maps the rest. Convolutions keep their maps
packed in memory as (B, R * C, H, W), on the CPU as (B, H, W, R * C), so that from one to the next
nothing is copied.
"""

import copy
import operator
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, vmap

# private: only its class tells what the public weight_norm makes from other parametrizations
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import is_parametrized

from trainlab.errors import ConfigError
from trainlab.stack import random_layers, stacked
from trainlab.stack.refusals import unstackable
from trainlab.stack.stacked import Stacked, stacked_parameter
from trainlab.training.modules import BATCH_NORMS, DROPOUTS
from trainlab.training.randomness import stream

# no weight, and the same for every number: nothing to do
ELEMENTWISE = (
    nn.ReLU, nn.ELU, nn.Tanh, nn.Sigmoid, nn.Identity, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Mish,
    nn.SELU, nn.CELU, nn.Softplus, nn.Softsign, nn.ReLU6, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish,
)  # fmt: skip
# channel by channel, so R * C channels are as good as C
POOLS = nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d
FORMS = {
    nn.Linear: stacked.Linear, nn.Conv2d: stacked.Conv2d, nn.PReLU: stacked.PReLU,
    nn.BatchNorm1d: stacked.BatchNorm, nn.BatchNorm2d: stacked.BatchNorm,
    nn.LayerNorm: stacked.LayerNorm, nn.GroupNorm: stacked.GroupNorm,
    nn.InstanceNorm2d: stacked.InstanceNorm, nn.RMSNorm: stacked.RMSNorm,
}  # fmt: skip
RANDOM = DROPOUTS, nn.RReLU, nn.FractionalMaxPool2d
ADDS = operator.add, operator.iadd, operator.mul, torch.add, torch.mul


def stack(models: Sequence[nn.Module], seeds: Sequence[int | torch.Generator]) -> nn.Module:
    """R models of one structure -> one module, (R, B, ...) -> (R, B, K).

    Dropout and rrelu follow each run's own stream. Parameters are named as in one model, but for
    "/" in place of some "."; see `single_name`. Raises ConfigError for what cannot be stacked.
    """
    return _stacked(list(models), streams_of(seeds), folded=False)


def streams_of(seeds: Sequence[int | torch.Generator]) -> list[torch.Generator]:
    """The dropout stream of each run; a generator goes on where it stands."""
    return [s if isinstance(s, torch.Generator) else stream(s, "dropout") for s in seeds]


def single_name(name: str) -> str:
    """The name in one model of a parameter or buffer of the stack."""
    return name.replace("/", ".")


def kind(module: nn.Module) -> type:
    """Its class; torch gives every parametrized module (weight norm) a class of its own."""
    return type(module).__mro__[1] if is_parametrized(module) else type(module)


def _stacked(models: list[nn.Module], streams: list[torch.Generator], folded: bool) -> nn.Module:
    """`folded`: inside a module that gets the runs folded into the batch, (R * B, ...)."""
    first, own = models[0], kind(models[0])
    for model in models:
        _same(first, model)
    if own is nn.Dropout:
        return _as(folded, random_layers.Dropout([model.p for model in models], streams))
    if own is nn.RReLU:
        return _as(folded, random_layers.RReLU(first.lower, first.upper, streams))
    if own in ELEMENTWISE or (folded and own.__module__.startswith("torch.nn") and _bare(first)):
        return first
    if own in FORMS and (reason := _odd(first)) is None:
        return _as(folded, FORMS[own](models))
    if own in FORMS and not isinstance(first, nn.Linear | nn.Conv2d):
        raise unstackable(kind(first), reason)
    if own is nn.Flatten and (first.start_dim, first.end_dim) == (1, -1):
        return nn.Flatten(2)
    if own in POOLS and not getattr(first, "return_indices", False):
        return stacked.Packed(first)
    if list(first.children()) and not is_parametrized(first):
        return _composed(models, streams, folded)
    return _as(folded, _mapped(models))


def _same(first: nn.Module, other: nn.Module) -> None:
    """Raises ConfigError unless two modules of a stack are the same but for their numbers."""
    forms = [
        (kind(m), [n for n, _ in m.named_children()], None if _free(m) else m.extra_repr())
        for m in (first, other)
    ]
    if forms[0] != forms[1]:
        raise ConfigError(f"runs of a stack differ: {first} and {other}; run them one by one")


def _free(module: nn.Module) -> bool:
    return kind(module) is nn.Dropout  # p may be each run's own


def _bare(module: nn.Module) -> bool:
    """A layer without weights, running figures or parts, that treats each sample alone."""
    # private, as the public iterators leave out what is None: the weight of a BatchNorm3d without
    # one, which mixes samples all the same
    held = list(module.children()) or module._parameters or module._buffers
    return not held and not isinstance(module, RANDOM)


def _odd(module: nn.Module) -> str | None:
    """Why a layer has no stacked form, or None."""
    if is_parametrized(module):
        own = module.parametrizations
        plain = list(own) == ["weight"] and len(own.weight) == 1
        if not (plain and isinstance(own.weight[0], _WeightNorm) and own.weight[0].dim == 0):
            return "computes its weight in a way that torch cannot batch"
    if getattr(module, "padding_mode", "zeros") != "zeros":
        return f"pads with padding_mode={module.padding_mode}"
    if isinstance(module, BATCH_NORMS) and module.momentum is None:
        return "averages its running figures over all batches"
    if isinstance(module, nn.InstanceNorm2d) and module.track_running_stats:
        return "holds running figures, which are not kept apart by run here"
    return None


def _as(folded: bool, module: Stacked) -> Stacked:
    module.folded = folded
    return module


def _composed(models: list[nn.Module], streams: list[torch.Generator], folded: bool) -> nn.Module:
    """A module with parts: the parts stacked, and its own forward."""
    first = models[0]
    if any(True for _ in first.parameters(recurse=False)):
        return _as(folded, _mapped(models))
    in_a_row = type(first).forward is nn.Sequential.forward
    alone = not (folded or in_a_row or _only_adds(first))
    parts = {
        name: _stacked([m.get_submodule(name) for m in models], streams, folded or alone)
        for name, _ in first.named_children()
    }
    module = copy.copy(first)
    module._modules = dict(parts)  # private: by add_module they would become those of `first` too
    return Folded(module) if alone else module


def _only_adds(module: nn.Module) -> bool:
    """Whether its forward calls its parts, and adds and multiplies what they put out, number by
    number: then it means the same for (R, B, ...)."""
    tracer = fx.Tracer()
    tracer.is_leaf_module = lambda *_: True
    try:
        nodes = tracer.trace(module).nodes
    except Exception:  # noqa: BLE001  torch.fx follows only some forwards and fails in many ways
        return False
    return all(n.op in ("placeholder", "call_module", "output") or n.target in ADDS for n in nodes)


class Folded(nn.Module):
    """A module whose forward treats each sample alone and whose parts are stacked: it gets the runs
    folded into the batch, (R * B, ...)."""

    def __init__(self, module: nn.Module):
        super().__init__()
        # private: the parts have their names here too, and one exchanged here is exchanged there
        self._modules = module._modules
        self.one = [module]

    @property
    def single(self) -> nn.Module:
        return self.one[0]

    def train(self, mode: bool = True) -> nn.Module:
        self.one[0].training = mode
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return self.one[0](x.flatten(0, 1)).unflatten(0, x.shape[:2])


def _mapped(models: list[nn.Module]) -> "Mapped":
    for module in models[0].modules():
        if isinstance(module, RANDOM) or getattr(module, "random", False):
            raise unstackable(
                kind(module), "draws at random, and each run must follow its own stream"
            )
        if is_parametrized(module):
            raise unstackable(
                kind(models[0]), "computes its weight in a way that torch cannot batch"
            )
        if any(True for _ in module.buffers(recurse=False)):
            raise unstackable(
                kind(module), "holds running figures, which are not kept apart by run here"
            )
    return Mapped(models)


class Mapped(Stacked):
    """Any module without running figures or randomness, (R, B, ...): torch.func maps it over its R
    sets of parameters."""

    mapped = True

    def __init__(self, models: Sequence[nn.Module]):
        super().__init__(len(models))
        self.one = [models[0]]  # in a list, so that its own parameters are not found
        self.names = {name: name.replace(".", "/") for name, _ in models[0].named_parameters()}
        for name, own in self.names.items():
            self.register_parameter(own, stacked_parameter([m.get_parameter(name) for m in models]))

    @property
    def single(self) -> nn.Module:
        return self.one[0]

    def train(self, mode: bool = True) -> nn.Module:
        self.one[0].train(mode)
        return super().train(mode)

    def each(self, x: Tensor) -> Tensor:
        params = {name: getattr(self, own) for name, own in self.names.items()}
        return vmap(partial(functional_call, self.one[0]))(params, x)
