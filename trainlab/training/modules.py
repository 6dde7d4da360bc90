"""What the modules of a network are: activations, norms, dropout; and which parameters are
matrices. Every room asks here.

trainlab's models name two places: `activation` and `norm` are the children of nn/norm.block. What
stands in such a place is an activation or a norm, whatever its class; elsewhere its class tells.
"""

import re

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

# torch has no public name for these three, and isinstance of them is how others' batch norms and
# dropouts, which are derived from them, are known. Used here only.
BATCH_NORMS = nn.modules.batchnorm._BatchNorm
NORMS = nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm | nn.RMSNorm
DROPOUTS = nn.modules.dropout._DropoutNd
# of torch.nn's activations those that mix elements
MIXING = nn.MultiheadAttention | nn.Softmax | nn.Softmax2d | nn.LogSoftmax | nn.Softmin | nn.GLU
ACTIVATION_FILES = nn.modules.activation.__name__, "trainlab.nn.activation"
SAYS_NORM = re.compile(r"norm(\d+d?)?$", re.IGNORECASE)  # ScaleNorm, LayerNorm2d; no NormedLinear
# names that torch.nn.functional and conf/activation/ write with an underscore
SPELLED = {"leakyrelu": "leaky_relu", "relusquared": "relu_squared"}


def child_name(name: str) -> str:
    """hidden1.activation -> activation"""
    return name.rpartition(".")[2]


def single(module: nn.Module) -> nn.Module:
    """The module of one run that a module of a stack stands for, where that says so in its
    `single`; any other module itself."""
    return getattr(module, "single", module)


def is_mapped(module: nn.Module) -> bool:
    """Whether torch.func maps it over the runs of a stack: its inside cannot be looked at."""
    return getattr(module, "mapped", False)


def activation_class(module: nn.Module) -> bool:
    """Whether its class is one of torch.nn's activations, or of ours."""
    return type(module).__module__ in ACTIVATION_FILES and not isinstance(module, MIXING)


def is_activation(name: str, module: nn.Module) -> bool:
    """Whether it stands in the activation's place, or is an activation by its class. `name` is
    that of model.named_modules()."""
    if child_name(name) != "activation":
        return activation_class(module)
    # of a chain such as (ReLU, Dropout) the activation is the part that is one, if one is
    chain = isinstance(module, nn.Sequential)
    return not (chain and any(map(activation_class, module.modules())))


def activation_name(module: nn.Module) -> str:
    """relu for nn.ReLU, leaky_relu for nn.LeakyReLU, wave for a Wave of one's own."""
    name = type(single(module)).__name__.lower()
    return SPELLED.get(name, name)


def activations(model: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """(parent, name in it, module) of each activation, in the order of their registration."""
    found = []
    for parent in model.modules():
        for name, child in parent.named_children():
            if is_activation(name, child):
                found.append((parent, name, child))
    return found


def is_norm(name: str, module: nn.Module) -> bool:
    """Whether it stands in the norm's place, is one of torch's norms, or is called one."""
    if isinstance(module, nn.Identity | nn.LocalResponseNorm):  # these leave the size as it is
        return False
    in_place = child_name(name) == "norm"
    return in_place or isinstance(module, NORMS) or bool(SAYS_NORM.search(type(module).__name__))


def norms(model: nn.Module) -> list[nn.Module]:
    """The norms in the order of their registration, without the parts of one."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if is_norm(name, module) and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = module
    return list(found.values())


def is_matrix(p: Tensor, runs: int | None = None) -> bool:
    """Whether it has two dims or more, in each run of a stack. It is all that can be said of a
    tensor whose module is not known, as in an optimizer; else see `matrices`."""
    return p.dim() > (1 if runs is None else 2)


def matrices(model: nn.Module, runs: int | None = None) -> dict[str, nn.Parameter]:
    """Name -> each weight of two dims or more that is no bias, no gain (beside a shift of the same
    shape, or of weight norm) and belongs to no norm, in the order of model.named_parameters().
    Weight decay, penalties and constraints act on these by default. Of a stack's model, whose
    parameters have a leading R, say its `runs`."""
    owners = dict(model.named_modules())
    found = {}
    for name, p in model.named_parameters():
        prefix, _, own = name.rpartition(".")
        if is_matrix(p, runs) and not _is_gain_or_bias(prefix, owners[prefix], own):
            found[name] = p
    return found


def _is_gain_or_bias(prefix: str, module: nn.Module, own: str) -> bool:
    """Of the parameter `own` of the module named `prefix`. In a stack a module that stands for a
    whole one has its parameters under names with "/" for "."."""
    inside, _, last = own.replace("/", ".").rpartition(".")
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
