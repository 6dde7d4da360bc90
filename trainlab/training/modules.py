"""Which modules are activations, norms or dropout, and which parameters are matrices: the one
definition for all rooms.

In trainlab's models the children of nn/norm.block are named `activation` and `norm`: what stands
there is an activation or a norm, whatever its class. Elsewhere the class decides.
"""

import re

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

# torch has no public name for these three base classes; isinstance of them recognises batch norms
# and dropouts that a user derived from them. These three names are used in this file only.
BATCH_NORMS = nn.modules.batchnorm._BatchNorm
NORMS = nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm | nn.RMSNorm
DROPOUTS = nn.modules.dropout._DropoutNd
# torch.nn's activations that mix elements
MIXING = nn.MultiheadAttention | nn.Softmax | nn.Softmax2d | nn.LogSoftmax | nn.Softmin | nn.GLU
ACTIVATION_FILES = nn.modules.activation.__name__, "trainlab.nn.activation"
SAYS_NORM = re.compile(r"norm(\d+d?)?$", re.IGNORECASE)  # ScaleNorm, LayerNorm2d; not NormedLinear
# names that torch.nn.functional and conf/activation/ write with an underscore
SPELLED = {"leakyrelu": "leaky_relu", "relusquared": "relu_squared"}


def child_name(name: str) -> str:
    """hidden1.activation -> activation"""
    return name.rpartition(".")[2]


def single(module: nn.Module) -> nn.Module:
    """For a stack's module, the single run's module in its attribute `single`; else the module
    itself."""
    return getattr(module, "single", module)


def is_mapped(module: nn.Module) -> bool:
    """Whether torch.func maps it over the runs of a stack, so that its parts cannot be recorded."""
    return getattr(module, "mapped", False)


def activation_class(module: nn.Module) -> bool:
    """Whether the class is an activation of torch.nn or of trainlab."""
    return type(module).__module__ in ACTIVATION_FILES and not isinstance(module, MIXING)


def is_activation(name: str, module: nn.Module) -> bool:
    """Whether a module stands in the activation's place or is an activation by its class. `name` as
    in model.named_modules()."""
    if child_name(name) != "activation":
        return activation_class(module)
    # in a chain such as (ReLU, Dropout) only the part that is an activation counts, if there is one
    chain = isinstance(module, nn.Sequential)
    return not (chain and any(map(activation_class, module.modules())))


def activation_name(module: nn.Module) -> str:
    """relu for nn.ReLU, leaky_relu for nn.LeakyReLU, wave for a user's class Wave."""
    name = type(single(module)).__name__.lower()
    return SPELLED.get(name, name)


def activations(model: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """(parent, name in it, module) of each activation, in order of registration."""
    rows = []
    for parent in model.modules():
        for name, child in parent.named_children():
            if is_activation(name, child):
                rows.append((parent, name, child))
    return rows


def is_norm(name: str, module: nn.Module) -> bool:
    """Whether a module stands in the norm's place, is one of torch's norms, or has a norm's
    name."""
    if isinstance(module, nn.Identity | nn.LocalResponseNorm):  # these leave the size as it is
        return False
    in_place = child_name(name) == "norm"
    return in_place or isinstance(module, NORMS) or bool(SAYS_NORM.search(type(module).__name__))


def norms(model: nn.Module) -> list[nn.Module]:
    """The norms in order of registration; parts of a norm are left out."""
    by_name: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if is_norm(name, module) and not any(name.startswith(f"{outer}.") for outer in by_name):
            by_name[name] = module
    return list(by_name.values())


def is_matrix(p: Tensor, runs: int | None = None) -> bool:
    """Whether a tensor has two dims or more, in each run of a stack. For tensors whose module is
    unknown, as in an optimizer; otherwise use `matrices`."""
    return p.dim() > (1 if runs is None else 2)


def matrices(model: nn.Module, runs: int | None = None) -> dict[str, nn.Parameter]:
    """Name -> weight, for every weight of two dims or more except biases, gains (with a bias of the
    same shape, or of weight norm) and parameters of norms, in order of model.named_parameters().
    Weight decay, penalties and constraints act on these by default. For a stack, whose parameters
    have a leading R, give `runs`."""
    owners = dict(model.named_modules())
    weights = {}
    for name, p in model.named_parameters():
        prefix, _, local_name = name.rpartition(".")
        if is_matrix(p, runs) and not _is_gain_or_bias(prefix, owners[prefix], local_name):
            weights[name] = p
    return weights


def _is_gain_or_bias(prefix: str, module: nn.Module, local_name: str) -> bool:
    """Whether parameter `local_name` of the module `prefix` is a gain, a bias or a norm's. A
    stack's module that replaces a whole submodule writes "/" for "." in the names of its
    parameters."""
    inside, _, last = local_name.replace("/", ".").rpartition(".")
    owner = single(module)
    if inside and owner is not module:
        prefix, owner = inside, owner.get_submodule(inside)
    weight_norm = isinstance(owner, ParametrizationList) or "parametrizations" in inside
    if weight_norm and last == "original0":
        return True
    gain, shift = getattr(owner, "weight", None), getattr(owner, "bias", None)
    both = isinstance(gain, Tensor) and isinstance(shift, Tensor)
    affine = last == "weight" and both and gain.shape == shift.shape
    return last == "bias" or affine or is_norm(prefix, owner)
