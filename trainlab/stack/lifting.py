"""Pure functions of one run -> the same of R runs, where numbers among their keywords may be each
run's own. B batch, K classes, R runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional

from trainlab.errors import ConfigError
from trainlab.training.best_weights import per_run


class Lifted:
    """torch.func's map of a pure function over R runs, each argument with a leading R. `values`:
    (R,) for each keyword that is each run's own."""

    def __init__(self, function: Callable, values: Mapping[str, Tensor]):
        self.function, self.values = function, dict(values)

    def __call__(self, *args: Any) -> Any:
        def one(values: dict[str, Tensor], *args: Any) -> Any:
            return self.function(*args, **values)

        return vmap(one)(self.values, *args)

    def keep(self, runs: Tensor) -> None:
        """Only these runs (k,) from now on."""
        self.values = {name: value[runs] for name, value in self.values.items()}


class CrossEntropy:
    """torch's cross-entropy of (R, B, K) and y (R, B), or shares (R, B, K), without a map, whose
    dispatch costs more than all the arithmetic of small nets; label_smoothing (R,) or a number."""

    def __init__(self, label_smoothing: float | Tensor = 0.0):
        self.smoothing = label_smoothing

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        # the batch last: torch takes many rows of few classes one by one (354 us against 83)
        log_p = logits.mT.contiguous().log_softmax(1)  # (R, K, B)
        if y.is_floating_point():
            losses = -(log_p * y.mT).sum(1).mean(-1)
        else:
            losses = -log_p.gather(1, y.unsqueeze(1)).mean((1, 2))
        if not isinstance(self.smoothing, Tensor) and self.smoothing == 0:
            return losses
        return torch.lerp(losses, -log_p.mean((1, 2)), self._as(losses))

    def _as(self, like: Tensor) -> Tensor:
        return torch.as_tensor(self.smoothing, dtype=like.dtype, device=like.device)

    def keep(self, runs: Tensor) -> None:
        if isinstance(self.smoothing, Tensor):
            self.smoothing = self.smoothing[runs]


class Penalty:
    """A penalty that is linear in its strengths, as `penalty.Elastic`: params -> (R,).
    strengths: (R,) of each."""

    def __init__(self, kind: Callable[..., Callable], strengths: Mapping[str, Tensor]):
        self.terms = {name: Lifted(kind(**{name: 1.0}), {}) for name in strengths}
        self.strengths = dict(strengths)

    def __call__(self, params: list[Tensor]) -> Tensor:
        return sum(self.parts(params).values())

    def parts(self, params: list[Tensor]) -> dict[str, Tensor]:
        """What each strength adds to the losses, (R,)."""
        return {name: self.strengths[name] * term(params) for name, term in self.terms.items()}

    def keep(self, runs: Tensor) -> None:
        self.strengths = {name: value[runs] for name, value in self.strengths.items()}


class Schedules:
    """(step, steps) -> the factor on lr: a number where all runs have one schedule, else (R,).
    `history`: of the stack, for rules that follow it."""

    def __init__(self, rules: Sequence[Callable[..., float]], device: torch.device):
        base, _, keywords = unwrapped(rules, "schedule")
        own = [{name: held[run] for name, held in keywords.items()} for run in range(len(rules))]
        self.device, self.runs = device, [partial(base, **each) for each in own]
        self.same = all(each == own[0] for each in own)

    def __call__(
        self, step: int, steps: int, history: Sequence[tuple[int, Any]] | None = None
    ) -> float | Tensor:
        if history is None and self.same:
            return self.runs[0](step, steps)
        if history is None:
            factors = [rule(step, steps) for rule in self.runs]
        else:
            factors = [
                rule(step, steps, history=[(at, values[run]) for at, values in history])
                for run, rule in enumerate(self.runs)
            ]
        return torch.tensor(factors, dtype=torch.float64, device=self.device)

    def keep(self, runs: list[int]) -> None:
        self.runs = [self.runs[run] for run in runs]


def lift(function: Callable, **values: Tensor) -> Callable:
    """A pure function of one run -> the same function of R runs, each argument with a leading R.
    values: (R,) for each keyword of which every run has its own."""
    return Lifted(function, values)


def lifted(
    functions: Sequence[Callable], what: str, like: Tensor, own: Callable[[Any], Any] = lambda x: x
) -> Callable:
    """R functions that are the same but for numbers among their keywords -> one of R runs.

    `like` has the dtype and device of the numbers; `own` turns a module or a list of parameters of
    the first run, bound in the function, into the stack's. Raises ConfigError, naming `what`, for
    functions that differ otherwise.
    """
    base, args, keywords = unwrapped(functions, what)
    values = {
        name: run_values(own_values, like)
        for name, own_values in keywords.items()
        if any(value != own_values[0] for value in own_values)
    }
    fixed = {name: held[0] for name, held in keywords.items() if name not in values}
    if base is functional.cross_entropy and not args and set(keywords) <= {"label_smoothing"}:
        return CrossEntropy(**fixed, **values)
    if any(isinstance(arg[0], nn.Module | list) for arg in args):
        bound = [
            lifted(arg, what, like, own) if callable(arg[0]) and not isinstance(arg[0], nn.Module)
            else own(arg[0])
            for arg in args
        ]  # fmt: skip
        return partial(base, *bound, **fixed)
    return Lifted(partial(base, *[arg[0] for arg in args], **fixed), values)


def penalised(penalties: Sequence[Any], like: Tensor) -> Penalty:
    """R penalties of one kind, a dataclass of its strengths, each with its own -> one of R runs."""
    held = {f.name: [getattr(p, f.name) for p in penalties] for f in fields(penalties[0])}
    strengths = {name: run_values(own, like) for name, own in held.items() if any(own)}
    return Penalty(type(penalties[0]), strengths)


def unwrapped(
    functions: Sequence[Callable], what: str
) -> tuple[Callable, list[tuple], dict[str, tuple]]:
    """The function behind R partials, each positional argument and each keyword R times.

    Raises ConfigError, naming `what`, for other functions, and for keywords that differ and are no
    numbers."""
    bases, args, keywords = zip(*map(_parts, functions), strict=True)
    if any(base is not bases[0] or keys.keys() != keywords[0].keys() for base, keys in
           zip(bases, keywords, strict=True)):  # fmt: skip
        raise ConfigError(f"{what}: runs of a stack have the same function; run them one by one")
    together = {name: tuple(own[name] for own in keywords) for name in keywords[0]}
    for name, own in together.items():
        if any(value != own[0] and not _number(value) for value in own):
            raise ConfigError(f"{what}: {name} differs between the runs; run them one by one")
    return bases[0], list(zip(*args, strict=True)), together


def _parts(function: Callable) -> tuple[Callable, tuple, dict[str, Any]]:
    # func, args and keywords are documented: functools.partial is the value that the door makes of
    # a node, and what regularisation.bound and constrain return
    if not isinstance(function, partial):
        return function, (), {}
    base, args, keywords = _parts(function.func)  # a partial may hold another
    return base, args + function.args, keywords | function.keywords


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def run_values(values: Sequence[float], like: Tensor) -> Tensor:
    """R numbers -> (R,), where `like` is and of its dtype."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)


def broadcast_runs(values: Any, like: Tensor) -> Any:
    """(R,) -> what multiplies `like` (R, ...) run by run, in its dtype; a number as it is."""
    return per_run(values.to(like.dtype), like) if isinstance(values, Tensor) else values
