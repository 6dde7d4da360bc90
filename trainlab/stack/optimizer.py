"""One optimizer for R runs, whose learning rates and other settings may be each run's own.

SGD and Adam have steps of their own here, in place and with (R, 1, ...) settings; any other of
torch's that treats each number alone takes torch's own step at lr 1, of which run r keeps the
fraction lr_r. A run whose loss is not finite stays where it was before that step: its gradient is
masked to 0 by its bits and its lr is 0. (torch.where does the same in 10 times the time of a
multiplication; a product with 0 would keep NaN.)
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn, optim

from trainlab.errors import ConfigError
from trainlab.stack import update_rules
from trainlab.stack.layers import single_name
from trainlab.stack.lifting import broadcast_runs
from trainlab.stack.refusals import stackable_kind

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
SHARED = "params", "name", "foreach", "fused", "capturable", "differentiable"
Group = dict[str, Any]


class Optimizer:
    """The optimizers of R single `models` as one, for `model`, the stack of them. Each of
    `param_groups` has "lr" (R,) in float64, which a schedule moves.

    `alive` (R,) bool is False from the first loss that is not finite on, `lived` (R,) counts the
    steps up to there; both stay on the device. Raises ConfigError for what does not stack.
    """

    def __init__(
        self,
        optimizers: Sequence[optim.Optimizer],
        models: Sequence[nn.Module],
        model: nn.Module,
    ):
        own = stackable_kind(optimizers)
        self.rule = update_rules.RULES.get(own)
        held = [_groups(o, m) for o, m in zip(optimizers, models, strict=True)]
        self.param_groups: list[Group] = []
        for groups, names in _divided(held, optimizers):
            params = [p for name, p in model.named_parameters() if single_name(name) in names]
            settings = {key: _settled([g[key] for g in groups], key, params[0], own)
                        for key in groups[0] if key not in SHARED}  # fmt: skip
            lrs = torch.tensor([float(g["lr"]) for g in groups], dtype=torch.float64)
            settings |= {"lr": lrs.to(params[0].device), "params": params}
            self.param_groups.append(settings | {"name": groups[0].get("name", "all")})
        self.inner = _inner(optimizers[0], self.param_groups)
        self.state = self.inner.state
        self.params = [p for group in self.param_groups for p in group["params"]]
        runs, device = len(optimizers), self.params[0].device
        self.alive = torch.ones(runs, dtype=torch.bool, device=device)
        self.lived = torch.zeros(runs, dtype=torch.int64, device=device)
        for name, p in model.named_parameters():
            mine = [single.get_parameter(single_name(name)) for single in models]
            self._take_over(p, [o.state.get(q, {}) for o, q in zip(optimizers, mine, strict=True)])

    def _take_over(self, p: nn.Parameter, states: list[dict[str, Any]]) -> None:
        """The states of runs that have begun."""
        for key, value in states[0].items():
            whole = isinstance(value, Tensor) and value.shape == p.shape[1:] and key != "step"
            held = [state[key] for state in states]
            self.state[p][key] = torch.stack(held) if whole else _copied(value)

    def zero_grad(self) -> None:
        for p in self.params:
            p.grad = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        with torch.enable_grad():
            losses = closure().detach()
        # 0 x is 0 for what is finite, else NaN: cheaper than isfinite
        self.alive &= (losses * 0) == 0
        self.lived += self.alive
        alive = -self.alive.to(BITS[self.params[0].element_size()])  # all bits, or none
        dtype = self.params[0].dtype
        lrs = [torch.where(self.alive, g["lr"], 0.0).to(dtype) for g in self.param_groups]
        if self.rule is None:
            self._by_torch(lrs, alive)
        else:
            for group, lr in zip(self.param_groups, lrs, strict=True):
                for p in group["params"]:
                    if p.grad is not None:
                        update_rules.step(self.rule, p, self.state[p], group, lr, alive)
        return losses

    def _by_torch(self, lrs: list[Tensor], alive: Tensor) -> None:
        before = [p.detach().clone() for p in self.params]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                update_rules.mask(p.grad, alive)
                if update_rules.there(group["weight_decay"]):
                    p.grad = update_rules.add_weight_decay(p.grad, p, group["weight_decay"])
        self.inner.step()
        old = iter(before)
        for group, lr in zip(self.param_groups, lrs, strict=True):
            for p in group["params"]:
                start = next(old)
                torch.addcmul(start, p - start, broadcast_runs(lr, p), out=p)

    def state_dict(self) -> dict[str, Any]:
        """As torch's; `alive` and `lived` stand with the first parameter."""
        saved = self.inner.state_dict()
        saved["state"] = {index: dict(own) for index, own in saved["state"].items()}
        saved["state"].setdefault(0, {}).update(alive=self.alive, lived=self.lived)
        return saved

    def load_state_dict(self, state: dict[str, Any]) -> None:
        states = {index: dict(own) for index, own in state["state"].items()}
        for name in ("alive", "lived"):
            setattr(self, name, states[0].pop(name).to(self.alive.device).clone())
        states = {index: own for index, own in states.items() if own}
        self.inner.load_state_dict(state | {"state": states})
        self.state = self.inner.state

    def of_run(self, run: int, p: nn.Parameter) -> dict[str, Any]:
        """The state of one parameter as that run alone would have it."""
        return {
            key: value[run].clone(memory_format=torch.contiguous_format)
            if _per_run(value, p)
            else _copied(value)
            for key, value in self.state.get(p, {}).items()
        }

    def keep(self, runs: Tensor) -> None:
        """Only these runs (k,) from now on; the parameters have been cut already."""
        old = len(self.alive)
        for own in self.state.values():
            for key, value in own.items():
                if isinstance(value, Tensor) and value.dim() and len(value) == old:
                    own[key] = value.index_select(0, runs)
        self.alive, self.lived = self.alive[runs], self.lived[runs]
        for group in self.param_groups:
            for key, value in group.items():
                if isinstance(value, Tensor):
                    group[key] = value[runs]
                elif key == "betas":
                    group[key] = tuple(b[runs] if isinstance(b, Tensor) else b for b in value)


def _groups(optimizer: optim.Optimizer, model: nn.Module) -> dict[str, int]:
    """Name of each parameter -> the place of its group."""
    places = {id(p): i for i, g in enumerate(optimizer.param_groups) for p in g["params"]}
    return {name: places[id(p)] for name, p in model.named_parameters() if id(p) in places}


def _divided(
    held: list[dict[str, int]], optimizers: Sequence[optim.Optimizer]
) -> list[tuple[list[Group], list[str]]]:
    """Parameters that share a group in every run: (the R groups, names). Runs without weight decay
    have fewer groups than those with."""
    if any(own.keys() != held[0].keys() for own in held):
        raise ConfigError("optim: runs of a stack train the same parameters; run them one by one")
    found: dict[tuple[int, ...], list[str]] = {}
    for name in held[0]:
        found.setdefault(tuple(own[name] for own in held), []).append(name)
    return [
        ([o.param_groups[i] for o, i in zip(optimizers, places, strict=True)], names)
        for places, names in sorted(found.items())
    ]


def _settled(values: list[Any], key: str, like: Tensor, kind: type) -> Any:
    """What R runs have for a setting: the value they share, or (R,) of their own."""
    if all(value == values[0] for value in values):
        return values[0]
    if key == "lr":
        return None
    if kind not in update_rules.RULES and key != "weight_decay":
        raise ConfigError(
            f"optim.{key}: {kind.__name__} takes one for all runs of a stack; run one by one"
        )
    if isinstance(values[0], bool):
        raise ConfigError(f"optim.{key}: differs between the runs; run them one by one")
    if isinstance(values[0], tuple | list):
        return tuple(_settled(list(each), "beta", like, kind) for each in zip(*values, strict=True))
    return torch.tensor(values, dtype=torch.float64, device=like.device)


def _inner(first: optim.Optimizer, groups: list[Group]) -> optim.Optimizer:
    """torch's own at lr 1 without weight decay, which is added here. It holds the states."""
    own = type(first)
    if own not in update_rules.RULES and any(
        group.get("decoupled_weight_decay") for group in groups
    ):
        raise ConfigError("optim.decoupled_weight_decay: only adam's stacks; run one by one")
    keys = [key for key in first.defaults if key not in ("lr", "weight_decay")]
    bare = [
        {key: g[key] for key in keys if key in g and not _differs(g[key])}
        | {"params": g["params"], "weight_decay": 0.0}
        for g in groups
    ]
    return own(bare, lr=1.0)


def _differs(value: Any) -> bool:
    return isinstance(value, Tensor) or (
        isinstance(value, tuple) and any(isinstance(v, Tensor) for v in value)
    )


def _per_run(value: Any, p: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == p.shape


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
