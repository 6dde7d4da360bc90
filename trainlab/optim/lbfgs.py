"""torch's L-BFGS with the keys that every optimizer has. Named by conf/optim/."""

from collections.abc import Iterable

from torch.optim import LBFGS

from trainlab.errors import ConfigError


def lbfgs(
    params: Iterable,
    lr: float = 1.0,
    weight_decay: float = 0.0,
    max_iter: int = 20,
    history_size: int = 10,
    line_search_fn: str | None = "strong_wolfe",
) -> LBFGS:
    """torch.optim.LBFGS: up to `max_iter` iterations a step, all on the step's own batch.

    Raises ConfigError for weight_decay (its line search would not see it) and for several groups.
    """
    given = list(params)
    groups = given if given and isinstance(given[0], dict) else [{"params": given}]
    decay = max([weight_decay, *(group.get("weight_decay", 0) for group in groups)])
    if decay:
        raise ConfigError(
            f"optim.weight_decay = {decay}: lbfgs has none, its line search would not see it; "
            f"use penalty.l2={decay}"
        )
    if len(groups) > 1:
        raise ConfigError(
            f"optim = lbfgs: takes one group of parameters, got {len(groups)}; leave groups.lr, "
            "groups.decay and groups.layer_decay out, or use another optim"
        )
    return LBFGS(
        groups, lr=lr, max_iter=max_iter, history_size=history_size, line_search_fn=line_search_fn
    )
