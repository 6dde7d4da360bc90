"""Pure functions of one run -> the same of R runs, where numbers among their keywords may be each
run's own. B batch, K classes, R runs."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional

from trainlab.errors import ConfigError
from trainlab.training.trainer import Trainer, per_run


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
    """A penalty that is linear in its strengths, as `penalty.elastic`: params -> (R,).
    strengths: (R,) of each."""

    def __init__(self, function: Callable, strengths: Mapping[str, Tensor]):
        self.terms = {name: Lifted(partial(function, **{name: 1.0}), {}) for name in strengths}
        self.strengths = dict(strengths)

    def __call__(self, params: list[Tensor]) -> Tensor:
        return sum(self.parts(params).values())

    def parts(self, params: list[Tensor]) -> dict[str, Tensor]:
        """What each strength adds to the losses, (R,)."""
        return {name: self.strengths[name] * term(params) for name, term in self.terms.items()}

    def keep(self, runs: Tensor) -> None:
        self.strengths = {name: value[runs] for name, value in self.strengths.items()}


class Schedules:
    """(step, steps) -> the factor on lr: a number where all runs have one schedule, else (R,)."""

    def __init__(self, schedules: Sequence[Callable[[int, int], float]], trainer: Trainer):
        self.base, _, self.keywords = unwrapped(schedules, "schedule", "history")
        self.trainer, self.runs = trainer, range(len(schedules))
        self.follows = self.keywords.pop("history", None) is not None

    def __call__(self, step: int, steps: int) -> float | Tensor:
        same = all(len(set(map(repr, own))) == 1 for own in self.keywords.values())
        if same and not self.follows:
            return self.base(step, steps, **{name: own[0] for name, own in self.keywords.items()})
        device = self.trainer.params[0].device
        return torch.tensor(
            [self._of(run, step, steps) for run in self.runs], dtype=torch.float64, device=device
        )

    def _of(self, run: int, step: int, steps: int) -> float:
        own = {name: values[run] for name, values in self.keywords.items()}
        if self.follows:
            own["history"] = [(at, values[run]) for at, values in self.trainer.history]
        return self.base(step, steps, **own)

    def keep(self, runs: list[int]) -> None:
        self.keywords = {n: tuple(own[r] for r in runs) for n, own in self.keywords.items()}
        self.runs = range(len(runs))


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


def penalised(functions: Sequence[Callable], like: Tensor) -> Penalty:
    """R penalties of one kind, each with strengths of its own -> one of R runs."""
    base, _, keywords = unwrapped(functions, "penalty")
    strengths = {name: run_values(own, like) for name, own in keywords.items() if any(own)}
    return Penalty(base, strengths)


def unwrapped(
    functions: Sequence[Callable], what: str, but: str | None = None
) -> tuple[Callable, list[tuple], dict[str, tuple]]:
    """The function behind R partials, each positional argument and each keyword R times.

    Raises ConfigError, naming `what`, for other functions, and for keywords that differ and are no
    numbers, except `but`."""
    bases, args, keywords = zip(*map(_parts, functions), strict=True)
    if any(base is not bases[0] or keys.keys() != keywords[0].keys() for base, keys in
           zip(bases, keywords, strict=True)):  # fmt: skip
        raise ConfigError(f"{what}: runs of a stack have the same function; run them one by one")
    together = {name: tuple(own[name] for own in keywords) for name in keywords[0]}
    for name, own in together.items():
        if name != but and any(value != own[0] and not _number(value) for value in own):
            raise ConfigError(f"{what}: {name} differs between the runs; run them one by one")
    return bases[0], list(zip(*args, strict=True)), together


def _parts(function: Callable) -> tuple[Callable, tuple, dict[str, Any]]:
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
