"""Weight initialisers. Named by conf/init/.

The rules are torch.nn.init's, or those at the end of this file; the rest says which tensors they
are for. K classes.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from trainlab.errors import ConfigError
from trainlab.nn import activation
from trainlab.training.modules import is_activation, is_matrix, is_norm, norms


@torch.no_grad()
def initialise(
    model: nn.Module,
    x: Tensor,
    *,
    weight: Callable[[Tensor], Tensor],
    gain: float | str = 1.0,
    head: str = "same",
    bias: float | str | None = 0.0,
    zero_gamma: bool = False,
    prior: Tensor | None = None,
) -> None:
    """Draw every weight of two or more dimensions by `weight` and multiply it with `gain`, set the
    biases beside them to `bias`, in place. Norm layers keep gain 1, shift 0.

    gain: auto is that of the activation behind the layer (see `weighted`), 1 where there is none.
    bias: null leaves it. Head, zero_gamma and bias=prior, with the class shares prior (K,): see
    `finish`. x (B, ...) is a batch of training images, for rules that look at the data.
    """
    if getattr(model, "pretrained", None) and getattr(weight, "func", weight) is not keep:
        raise ConfigError(f"model.weights = {model.pretrained}: to keep them, init=torch_default")
    for layer, behind in weighted(model):
        factor = gain
        if gain == "auto":
            factor = 1.0 if behind is None else activation.gain(behind)
        value = layer.weight.clone()
        weight(value)
        assign(layer, value * factor)
        if isinstance(getattr(layer, "bias", None), Tensor) and bias is not None:
            layer.bias.fill_(0.0 if bias == "prior" else bias)
    if head != "same" or bias == "prior" or zero_gamma:
        finish(model, head, bias, zero_gamma, prior)


def keep(weight: Tensor) -> Tensor:
    """The weights that torch's layers drew when they were built."""
    return weight


def weighted(model: nn.Module) -> list[tuple[nn.Module, nn.Module | None]]:
    """Every layer with a weight of two or more dimensions, in order, and the activation behind it:
    the next child that is called `activation` or is of torch.nn's activations; for the last layers,
    the one before. None where the model has no such module."""
    modules = list(model.named_modules())
    active = [m for name, m in modules if is_activation(name, m)]
    behind, found = (active[-1] if active else None), []
    for name, module in reversed(modules):
        if is_activation(name, module):
            behind = module
        elif _is_weighted(name, module):
            found.append((module, behind))
    return found[::-1]


def assign(layer: nn.Module, value: Tensor) -> None:
    """Make `value` the effective weight, also under weight norm."""
    if is_parametrized(layer, "weight"):
        decompose(layer, value)
    else:
        layer.weight.copy_(value)


def _is_weighted(name: str, module: nn.Module) -> bool:
    held = "weight" in dict(module.named_parameters(recurse=False, remove_duplicate=False))
    held = held or is_parametrized(module, "weight")
    matrix = held and isinstance(module.weight, Tensor) and is_matrix(module.weight)
    return matrix and not is_norm(name, module)


# what `head` stands for beside `same`; 0.01 is that of Goyal et al. 2017, section 5.1
HEADS = {"zero": nn.init.zeros_, "gaussian": partial(nn.init.normal_, std=0.01)}


@torch.no_grad()
def finish(
    model: nn.Module, head: str, bias: float | str | None, zero_gamma: bool, prior: Tensor | None
) -> None:
    """Head: the last layer with weights, drawn like the others (same), 0 (zero) or by N(0, 0.01^2)
    (gaussian). bias=prior: the head's is the log of the class shares prior (K,), so that the first
    outputs are right about the classes' frequencies. zero_gamma: see `close_branches`."""
    last = weighted(model)[-1][0]
    if head in HEADS:
        assign(last, HEADS[head](torch.empty_like(last.weight)))
    if bias == "prior":
        own = getattr(last, "bias", None)
        if prior is None or own is None or own.shape != prior.shape:
            raise ConfigError(
                "init.bias = prior: needs the labels and a head with one bias a class; use "
                "init.bias=0"
            )
        own.copy_(prior.clamp(min=1e-6).log())  # of a class that never comes: -14
    if zero_gamma:
        close_branches(model)


def close_branches(model: nn.Module) -> None:
    """Goyal et al. 2017, https://arxiv.org/abs/1706.02677: a residual block starts as the identity,
    because the last norm of its `branch` has gain 0; without a norm, its last layer weight 0.
    Raises ConfigError where there is no block."""
    found = [m.branch for m in model.modules() if isinstance(getattr(m, "branch", None), nn.Module)]
    for branch in found:
        gains = [m for m in norms(branch) if isinstance(getattr(m, "weight", None), Tensor)]
        last = gains[-1] if gains else weighted(branch)[-1][0]
        assign(last, torch.zeros_like(last.weight))
    if not found:
        raise ConfigError(
            "init.zero_gamma = true: the model has no residual blocks; use init.zero_gamma=false"
        )


def decompose(layer: nn.Module, value: Tensor) -> None:
    """Make `value` the effective weight g v / |v|. A row of zeros has g = 0 and keeps its v, which
    would else be 0/0."""
    kept = [p.clone() for p in layer.parametrizations.weight.parameters()]
    layer.weight = value
    for new, old in zip(layer.parametrizations.weight.parameters(), kept, strict=True):
        if new.shape == value.shape:
            rows = new.flatten(1).any(1).view(-1, *[1] * (new.dim() - 1))
            new.copy_(torch.where(rows, new, old))


TRUNCATED = 0.87962566103423978  # standard deviation of N(0, 1) within -2 .. 2


def truncated(weight: Tensor, scale: float = 1.0, fan: str = "in") -> Tensor:
    """Variance scale / fan, drawn from a normal distribution cut at two of its standard deviations;
    fan: in, out or the mean of both. Keras' VarianceScaling,
    https://keras.io/api/layers/initializers/#variancescaling-class; in place."""
    taps = math.prod(weight.shape[2:])
    fan_out, fan_in = weight.shape[0] * taps, weight.shape[1] * taps
    count = {"in": fan_in, "out": fan_out, "mean": (fan_in + fan_out) / 2}[fan]
    std = math.sqrt(scale / count) / TRUNCATED
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


@torch.no_grad()
def identity(weight: Tensor) -> Tensor:
    """Each output is the input of the same number, as far as there are as many: ones on the
    diagonal; of a convolution (odd kernel) on that of its central tap. In place."""
    center = tuple(size // 2 for size in weight.shape[2:])
    weight.zero_()[(slice(None), slice(None), *center)].fill_diagonal_(1.0)
    return weight
