"""Weight initialisers. Named by conf/init/.

The rules themselves are torch.nn.init's, or stand in draws.py; this says which tensors they are
for. What a default run does not ask for stands in ends.py. K classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from trainlab.errors import ConfigError
from trainlab.nn import activation

NORMS = nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm | nn.RMSNorm
MIXING = nn.MultiheadAttention | nn.Softmax | nn.Softmax2d | nn.LogSoftmax | nn.Softmin | nn.GLU


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
    ends.py. x (B, ...) is a batch of training images, for rules that look at the data.
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
        from trainlab.nn.ends import finish

        finish(model, head, bias, zero_gamma, prior)


def keep(weight: Tensor) -> Tensor:
    """The weights that torch's layers drew when they were built."""
    return weight


def weighted(model: nn.Module) -> list[tuple[nn.Module, nn.Module | None]]:
    """Every layer with a weight of two or more dimensions, in order, and the activation behind it:
    the next child that is called `activation` or is of torch.nn's activations; for the last layers,
    the one before. None where the model has no such module."""
    modules = list(model.named_modules())
    active = [m for name, m in modules if _is_activation(name, m)]
    behind, found = (active[-1] if active else None), []
    for name, module in reversed(modules):
        if _is_activation(name, module):
            behind = module
        elif _is_weighted(module):
            found.append((module, behind))
    return found[::-1]


def assign(layer: nn.Module, value: Tensor) -> None:
    """Make `value` the effective weight, also under weight norm."""
    if is_parametrized(layer, "weight"):
        from trainlab.nn.ends import decompose

        decompose(layer, value)
    else:
        layer.weight.copy_(value)


def _is_weighted(module: nn.Module) -> bool:
    held = "weight" in module._parameters or is_parametrized(module, "weight")
    matrix = held and isinstance(module.weight, Tensor) and module.weight.dim() >= 2
    return matrix and not isinstance(module, NORMS)


def _is_activation(name: str, module: nn.Module) -> bool:
    known = type(module).__module__ == nn.modules.activation.__name__
    return name.rpartition(".")[2] == "activation" or (known and not isinstance(module, MIXING))
