"""Faults of weights, layers and of what goes in and out of the network. Named by conf/fault/.

B batch, K classes.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from trainlab.data.batches import Batches
from trainlab.data.splits import Split
from trainlab.errors import ConfigError
from trainlab.training.modules import BATCH_NORMS, activations, is_matrix, matrices
from trainlab.training.trainer import Trainer


class Sloped(nn.Module):
    """function(slope * x)"""

    def __init__(self, function: Callable[[Tensor], Tensor], slope: float):
        super().__init__()
        self.function, self.slope = function, slope

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.slope * x)


@torch.no_grad()
def constant(trainer: Trainer, severity: float) -> None:
    """All weights have this value, all biases are 0."""
    for p in trainer.model.parameters():
        p.fill_(severity if is_matrix(p) else 0.0)


@torch.no_grad()
def scaled_to(trainer: Trainer, severity: float) -> None:
    """The weights of every layer get this standard deviation."""
    for p in matrices(trainer.model).values():
        p.mul_(severity / p.std().clamp_min(1e-12))


@torch.no_grad()
def mismatch(trainer: Trainer, severity: float) -> None:
    """The weights of the hidden layers are this factor from what their activation needs."""
    for p in list(matrices(trainer.model).values())[:-1]:
        p.mul_(severity)


@torch.no_grad()
def dead(trainer: Trainer, severity: float) -> None:
    """Every bias before an activation is -severity."""
    model = trainer.model
    biases = [p for name, p in model.named_parameters() if name.split(".")[-1] == "bias"]
    if len(biases) < 2:
        raise ConfigError("fault = act_dead: no hidden layer has a bias")
    for p in biases[:-1]:
        p.fill_(-severity)


def saturating(trainer: Trainer, severity: float) -> None:
    """Every activation is sigmoid(severity * x), whose slope is severity / 4 at most."""
    _swap(trainer.model, lambda old: Sloped(torch.sigmoid, severity))


def exploding(trainer: Trainer, severity: float) -> None:
    """Every activation is tanh(severity * x): bounded forward, a slope up to `severity` back."""
    _swap(trainer.model, lambda old: Sloped(torch.tanh, severity))


def linear(trainer: Trainer, severity: float) -> None:
    """This share of the activations, from the input on, is left out."""
    count = len(activations(trainer.model)) * severity
    left = iter(range(round(count)))
    _swap(trainer.model, lambda old: old if next(left, None) is None else nn.Identity())


def dropout(trainer: Trainer, severity: float) -> None:
    """Dropout at this rate behind every activation."""
    _swap(trainer.model, lambda old: nn.Sequential(old, nn.Dropout(severity)))


def output_activation(trainer: Trainer, severity: float) -> None:
    """ReLU behind the last layer, of slope 1 - severity below 0."""
    _around(trainer, after=partial(nn.functional.leaky_relu, negative_slope=1 - severity))


def softmax(trainer: Trainer, severity: float) -> None:
    """softmax(z / severity) behind the last layer, before a loss that takes softmax itself."""
    _around(trainer, after=lambda z: torch.softmax(z / severity, -1))


def batch_leak(trainer: Trainer, severity: float) -> None:
    """Each sample has this much of its neighbour in the batch added."""
    _around(trainer, before=lambda x: x + severity * x.roll(1, 0))


def input_ignored(trainer: Trainer, severity: float) -> None:
    """The input is multiplied with 1 - severity."""
    _around(trainer, before=lambda x: x * (1 - severity))


def norm_mode(trainer: Trainer, severity: float) -> None:
    """Batch norm stays in training mode at evaluation, which sees `severity` samples at once."""
    norms = [m for m in trainer.model.modules() if isinstance(m, BATCH_NORMS)]
    if not norms:
        raise ConfigError("fault = norm_mode: there is no batch norm; add norm=batch")
    for module in norms:
        module.train = partial(_training, module)
    old = trainer.validation
    split = Split(old.x, old.y)
    trainer.change(validation=Batches.in_order(split, old.preprocess, int(severity)))


def _training(module: nn.Module, mode: bool = True) -> nn.Module:
    module.training = True
    return module


def _swap(model: nn.Module, make: Callable[[nn.Module], nn.Module]) -> None:
    """Another module in the place of every activation."""
    found = activations(model)
    if not found:
        raise ConfigError("fault: the model has no activation module to change; use model=mlp")
    for parent, name, child in found:
        setattr(parent, name, make(child))


def _around(
    trainer: Trainer,
    before: Callable[[Tensor], Tensor] = lambda x: x,
    after: Callable[[Tensor], Tensor] = lambda z: z,
) -> None:
    """Spoil what goes into the model or comes out of it; names of parameters stay."""
    model, inner = trainer.model, trainer.model.forward
    model.forward = lambda x: after(inner(before(x)))
