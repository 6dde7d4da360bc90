"""What a stack refuses: runs that differ in more than values, and optimizers that mix the numbers
of a tensor; which layers cannot be batched is decided in layers.py. A refusal says why, and the
runs train one by one."""

from collections.abc import Callable, Sequence

from torch import nn, optim

from trainlab.errors import ConfigError
from trainlab.training.trainer import Trainer

# each number by itself, in proportion to lr; optimizers of our own say `elementwise = True`
OPTIMIZERS = (
    optim.SGD, optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam, optim.Adamax, optim.RMSprop,
    optim.Adagrad, optim.Adadelta,
)  # fmt: skip
# what is one for all runs of a stack
ALIKE = "step_count", "steps", "accumulate", "facts", "monitor", "patience", "smooth"


def refuse_unlike_runs(
    trainers: Sequence[Trainer], forward: Callable[[nn.Module], Callable] | None
) -> None:
    """Raises ConfigError for what no stack can hold together."""
    first = trainers[0]
    for name in ALIKE:
        if any(getattr(t, name) != getattr(first, name) for t in trainers):
            raise ConfigError(f"{name}: differs between the runs of a stack; run them one by one")
    for name in ("criterion", "clip", "constrain", "penalty", "average", "validation"):
        if len({getattr(t, name) is None for t in trainers}) > 1:
            raise ConfigError(f"{name}: some runs of a stack have one; run them one by one")
    if first.scaler is not None:
        raise ConfigError("precision = fp16: its one scale is for one run; run one by one")
    if forward is None and any(t.forward is not t.model for t in trainers):
        raise ConfigError("channels_last: a stack has its own layout; run one by one")
    if first.eval_inputs is not None:
        raise ConfigError("evaluate.statistics, average.swa: not in a stack; run one by one")
    if first.average and any(t.average.rule != first.average.rule for t in trainers):
        raise ConfigError("average: differs between the runs of a stack; run them one by one")


def stackable_kind(optimizers: Sequence[optim.Optimizer]) -> type:
    """The class of all. Raises ConfigError where it does not stack, or is not one."""
    own = type(optimizers[0])
    if own not in OPTIMIZERS and not getattr(own, "elementwise", False):
        raise ConfigError(
            f"{own.__name__} does not stack: its step mixes the numbers of a tensor, or is "
            "not in proportion to lr; run one by one"
        )
    if any(g.get("dampening") for o in optimizers for g in o.param_groups):
        raise ConfigError("optim.dampening: does not stack; run one by one")
    if any(type(o) is not own for o in optimizers):
        raise ConfigError("optim: runs of a stack have one optimizer; run them one by one")
    return own


def unstackable(kind: type, reason: str) -> ConfigError:
    """For a layer of this class; what it does is the reason."""
    return ConfigError(f"{kind.__name__} does not stack: it {reason}; run one by one")
