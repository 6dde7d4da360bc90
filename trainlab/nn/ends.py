"""What an initialiser does to single layers: head, prior, branches, weight norm. K classes.

The words of conf/init/ pass the keys of these names to init.py, which calls this where needed.
"""

from functools import partial

import torch
from torch import Tensor, nn

from trainlab.errors import ConfigError
from trainlab.nn.init import NORMS, assign, weighted

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
        norms = [m for m in branch.modules() if isinstance(m, NORMS) and m.weight is not None]
        last = norms[-1] if norms else weighted(branch)[-1][0]
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
