"""What a recipe adds to the plain step: penalty, clipping, constraint, averaged weights, precision.
Imported only by runs that ask for one; plain values in, the Extras of a Trainer out."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from trainlab.errors import ConfigError
from trainlab.nn.init import weighted
from trainlab.optim import averaging
from trainlab.optim import clip as clips
from trainlab.optim import constraint as constraints
from trainlab.optim import groups as group_rules
from trainlab.optim.penalty import Elastic
from trainlab.training.trainer import Extras, Trainer


def regularise(
    model: nn.Module,
    optimizer: Any,
    steps: int,
    inputs: Callable[[], Iterable[Tensor]],
    *,
    penalty: Mapping[str, float],
    clip: Mapping[str, float | None],
    constraint: Mapping[str, float | bool | None],
    average: Mapping[str, float | None],
    groups: Mapping[str, list | bool | float],
    statistics: str,
    precision: str,
    compile: bool,
    channels_last: bool,
) -> Extras:
    """What these sections of the config ask for, of a training of so many `steps`. `inputs()` gives
    the training images, (B, ...) at a time. A constraint acts on the model at once. Raises
    ConfigError for combinations that mean nothing."""
    if channels_last and isinstance(optimizer, torch.optim.LBFGS):
        raise ConfigError("channels_last = true: torch's L-BFGS cannot take it; use another optim")
    call = None
    if precision != "fp32" or compile or channels_last:
        call = forward(model, precision, compile, channels_last)
    device = next(model.parameters()).device
    scaling = scaler(device, optimizer) if precision == "fp16" else None
    extras = Extras(
        forward=call,
        scaler=scaling,
        set_train_mode=group_rules.TrainMode(tuple(groups["freeze"])),
        clip=bound(model, clip),
        constrain=constrain(model, constraint),
    )
    if any(penalty.values()):  # it acts on what weight decay acts on, so l2 equals SGD's
        acting = group_rules.decayed_parameters(model, groups["decay"], groups["decay_all"])
        extras = replace(
            extras, penalty=Elastic(**penalty), penalised=acting, extra_metrics=penalty_terms
        )
    averaged = average_of(model, steps, average)
    anew = inputs if statistics == "full_pass" or average["swa"] is not None else None
    if averaged is None and anew is None:
        return extras
    return replace(extras, average=averaged, eval_inputs=anew, eval_weights=eval_weights)


@torch.no_grad()
def penalty_terms(trainer: Trainer) -> dict[str, float]:
    """How much each penalty adds to the loss, for the rows."""
    parts = trainer.penalty.parts(trainer.penalised)
    return {f"penalty/{name}": float(value) for name, value in parts.items()}


def bound(model: nn.Module, limits: Mapping[str, float | None]) -> Callable | None:
    """One of norm, value, adaptive. The head is not clipped adaptively (Brock et al. 2021)."""
    if (name := _only_one("clip", limits)) is None:
        return None
    head = weighted(model)[-1][0]  # weight and bias
    return {
        "norm": partial(clips.by_norm, norm=limits["norm"]),
        "value": partial(clips.by_value, value=limits["value"]),
        "adaptive": partial(_all_but, head, partial(clips.adaptively, factor=limits["adaptive"])),
    }[name]


def constrain(
    model: nn.Module, limits: Mapping[str, float | bool | None]
) -> Callable[[], None] | None:
    """One of max_norm, unit_norm, after every step and from the start."""
    if (name := _only_one("constraint", limits)) is None:
        return None
    if any(is_parametrized(module) for module in model.modules()):
        text = "with norm=weight a unit's norm is its gain; use another norm"
        raise ConfigError(f"constraint.{name}: {text}, or leave the constraint out")
    rule = {"max_norm": partial(constraints.max_norm, norm=limits["max_norm"])}
    weights = group_rules.trained_matrices(model)
    multiply = partial(_multiply, weights, rule.get(name, constraints.unit_norm))
    multiply()
    return multiply


class Average:
    """Averaged weights beside the trained ones. They are what is evaluated and kept as the best."""

    def __init__(self, model: nn.Module, rule: averaging.Ema | averaging.Swa):
        self.live, self.rule = model.state_dict(), rule
        self.weights = averaging.start(self.live)

    def of(self, model: nn.Module) -> "Average":
        return Average(model, self.rule)

    def update(self, trainer: Trainer) -> None:
        self.rule(self.weights, self.live, trainer.step_count)

    def state_dict(self) -> dict[str, Tensor]:
        return self.weights

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, tensor in self.weights.items():
            tensor.copy_(state[name])


def average_of(model: nn.Module, steps: int, rules: Mapping[str, float | None]) -> Average | None:
    """One of ema (a decay) and swa (the fraction of the training it begins at)."""
    if (name := _only_one("average", rules)) is None:
        return None
    value = rules[name]
    return Average(model, averaging.Ema(value) if name == "ema" else averaging.Swa(steps, value))


@contextmanager
def eval_weights(trainer: Trainer) -> Iterator[None]:
    """Inside, the model has its averaged weights, and batch-norm statistics of one pass over
    `eval_inputs`; afterwards it is, bit for bit, what it was."""
    model = trainer.model
    own = {name: t.clone() for name, t in model.state_dict().items()}
    try:
        if trainer.average is not None:
            model.load_state_dict(trainer.average.weights)
            if trainer.constrain is not None:  # a mean of unit vectors is none
                trainer.constrain()
        if trainer.eval_inputs is not None:
            averaging.refresh(model, trainer.eval_inputs())
        yield
    finally:
        model.load_state_dict(own)


def _only_one(section: str, values: Mapping[str, float | bool | None]) -> str | None:
    """The name of the value that is set. ConfigError for more than one."""
    given = [name for name, value in values.items() if value is not None and value is not False]
    if len(given) > 1:
        names = " and ".join(f"{section}.{name}" for name in given)
        raise ConfigError(f"{names}: one at a time; drop {section}.{given[-1]}")
    return given[0] if given else None


@torch.no_grad()
def _multiply(weights: list[Tensor], rule: Callable[[list[Tensor]], list[Tensor]]) -> None:
    torch._foreach_mul_(weights, rule(weights))


def _all_but(
    left: nn.Module, rule: Callable, grads: list[Tensor], params: list[Tensor]
) -> tuple[list[Tensor], Tensor]:
    """`rule` for the gradients of all parameters but one layer's."""
    own = {id(p) for p in left.parameters()}
    kept = [i for i, p in enumerate(params) if id(p) not in own]
    bounded, share = rule([grads[i] for i in kept], [params[i] for i in kept])
    clipped = dict(zip(kept, bounded, strict=True))
    return [clipped.get(i, grad) for i, grad in enumerate(grads)], share


HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def forward(
    model: nn.Module, precision: str, compiled: bool, channels_last: bool
) -> Callable[[Tensor], Tensor]:
    """x (B, ...) -> logits (B, K) in float32, by `model`, whose weights stay float32.

    bf16, fp16: torch.autocast (Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740); fp16
    wants a `scaler` too. tf32 is torch's global switch, see randomness.join. channels_last lays the
    model's convolutions out anew, in place. compiled: torch.compile, at the first call.
    """
    device = next(model.parameters()).device
    if channels_last:
        model.to(memory_format=torch.channels_last)
    call = torch.compile(model) if compiled else model
    half = HALF.get(precision)

    def run(x: Tensor) -> Tensor:
        if channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        if half is None:
            return call(x)
        with torch.autocast(device.type, half):
            return call(x).float()

    return run


def scaler(device: torch.device, optimizer: torch.optim.Optimizer) -> torch.amp.GradScaler:
    """For fp16, whose small gradients would be 0: the loss is multiplied by a number that grows and
    shrinks, and a step with infinite gradients is left out. It waits for the device every step."""
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ConfigError(
            "precision = fp16: optim=lbfgs asks for the loss many times a step; use precision=bf16"
        )
    return torch.amp.GradScaler(device.type)
