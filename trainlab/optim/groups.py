"""Which parameters are trained, how fast, and how far they decay.

Patterns are those of the shell (fnmatch) on the names of model.named_parameters(); where several
match, the last one decides. Weight decay, penalties and constraints act on the matrices, see
training/modules.py.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from trainlab.errors import ConfigError
from trainlab.training.modules import matrices

FACTOR = re.compile(r"\d*\.?\d+(e[+-]?\d+)?")


def parameter_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    *,
    factors: Sequence[str] = (),
    decays: Sequence[str] = (),
    freeze: Sequence[str] = (),
    layer_decay: float = 1.0,
    decay_all: bool = False,
) -> list[dict[str, Any]]:
    """Parameter groups for any optimizer: {"params", "lr", "weight_decay", "name"}, one for each
    pair of lr and weight decay, parameters in the model's order.

    factors, decays: texts `pattern:factor` on lr and on weight_decay. Biases and the gains and
    shifts of norms have the factor 0 on weight_decay unless `decay_all` or a pattern says
    otherwise. freeze: patterns; they get requires_grad False and stand in no group, see `rest`.
    layer_decay: lr * layer_decay^k for the k-th weight layer from the top. The group with the head
    comes last of those with matrices. With all defaults and no weight decay there is one group.

    Raises ConfigError for a pattern that matches nothing or has no factor, or where nothing is left
    to train.
    """
    names = [name for name, _ in model.named_parameters()]
    frozen = _factors("groups.freeze", [f"{pattern}:0" for pattern in freeze], names)
    rates, shares = _factors("groups.lr", factors, names), _factors("groups.decay", decays, names)
    weights, above = matrices(model), _above(model)
    found: dict[tuple[float, float], list[str]] = {}
    for name, p in model.named_parameters():
        if name in frozen:
            p.requires_grad_(False)
        if p.requires_grad:
            rate = lr * rates.get(name, 1.0) * layer_decay ** above[name]
            share = shares.get(name, float(decay_all or name in weights))
            found.setdefault((rate, weight_decay * share), []).append(name)
    if not found:
        raise ConfigError(f"groups.freeze = {list(freeze)}: leaves nothing to train; freeze less")

    def head_last(item: tuple) -> int:
        return max((names.index(n) for n in item[1] if n in weights), default=len(names))

    return [
        {
            "params": [model.get_parameter(name) for name in own],
            "lr": rate,
            "weight_decay": decay,
            "name": "all" if len(found) == 1 else _span(own),
        }
        for (rate, decay), own in sorted(found.items(), key=head_last)
    ]


def decayed_parameters(
    model: nn.Module, decays: Sequence[str] = (), decay_all: bool = False
) -> list[nn.Parameter]:
    """What weight decay acts on, and so penalty.l1, penalty.l2: the matrices (all parameters with
    `decay_all`), without what a pattern of `decays` gives the factor 0 and with what one gives
    another."""
    names = [name for name, _ in model.named_parameters()]
    shares, weights = _factors("groups.decay", decays, names), matrices(model)
    return [
        p
        for name, p in model.named_parameters()
        if p.requires_grad and shares.get(name, decay_all or name in weights)
    ]


def trained_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The weights that constraints act on, in the model's order."""
    return [p for p in matrices(model).values() if p.requires_grad]


def rest(model: nn.Module, freeze: Sequence[str] = ()) -> None:
    """Put the norms that are frozen into evaluation mode, so that their running statistics stay
    too. Call it after every model.train().

    Frozen is a norm with running statistics whose own parameters are all frozen, or whose
    `running_mean` a pattern of `freeze` matches (a norm without parameters has nothing else).
    """
    for name, module in model.named_modules():
        if getattr(module, "running_mean", None) is not None:
            own = list(module.parameters(recurse=False))
            buffer = f"{name}.running_mean".lstrip(".")
            if (own and not any(p.requires_grad for p in own)) or any(
                fnmatchcase(buffer, pattern) for pattern in freeze
            ):
                module.eval()


@dataclass(frozen=True)
class TrainMode:
    """Training mode, but for the norms that are frozen: see `rest`."""

    freeze: tuple[str, ...] = ()

    def __call__(self, model: nn.Module) -> None:
        model.train()
        rest(model, self.freeze)


def _above(model: nn.Module) -> dict[str, int]:
    """Name -> how many weight layers stand above; what is no part of one counts to the last one
    before it."""
    layers = {_layer(name) for name in matrices(model)}
    seen: list[str] = []
    at = {}
    for name, _ in model.named_parameters():
        if _layer(name) in layers - set(seen):
            seen.append(_layer(name))
        at[name] = max(len(seen), 1)
    return {name: max(len(seen), 1) - layer for name, layer in at.items()}


def _layer(name: str) -> str:
    return name.rpartition(".")[0].partition("parametrizations.")[0].rstrip(".")


def _factors(key: str, texts: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """["head*:10"] -> {"head.weight": 10.0, "head.bias": 10.0}, in the order of the texts."""
    found = {}
    for text in texts:
        pattern, _, number = str(text).rpartition(":")
        if not pattern or not FACTOR.fullmatch(number):
            raise ConfigError(f"{key} = {text}: must be pattern:factor, such as {key}=[head*:10]")
        fits = {name: float(number) for name in names if fnmatchcase(name, pattern)}
        if not fits:
            some = ", ".join(dict.fromkeys([*names[:2], *names[-2:]]))
            raise ConfigError(
                f"{key} = {pattern}: no parameter has such a name; there are {some} and others"
            )
        found |= fits
    return found


def _span(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} .. {names[-1]} ({len(names)})"
