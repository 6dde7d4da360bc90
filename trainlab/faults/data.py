"""Faults of samples and labels. Named by conf/fault/. N samples, K classes.

Only what is trained on is spoilt, unless said otherwise; images become float32 where pixels must
hold what uint8 cannot.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trainlab.data.batches import Batches, Unshuffled
from trainlab.data.splits import Split
from trainlab.errors import ConfigError
from trainlab.training.trainer import Trainer


class Through:
    """A preprocessing whose result goes through `change` too."""

    def __init__(self, fitted: Any, change: Callable[[Tensor], Tensor]):
        self.fitted, self.change = fitted, change

    def __call__(self, x: Tensor) -> Tensor:
        return self.change(self.fitted(x))

    def __getattr__(self, name: str) -> Any:  # state, shape, ...: of what was fitted
        return getattr(self.fitted, name)

    def to(self, *place: Any) -> "Through":
        return Through(self.fitted.to(*place), self.change)

    def expand(self, shape: Any) -> "Through":
        return Through(self.fitted.expand(shape), self.change)


def unnormalised(trainer: Trainer, severity: float) -> None:
    """Raw inputs, from 0 to `severity` where they are pixels, in training and validation."""
    _preprocess(trainer, lambda fitted: _raw(trainer, fitted, severity))


def _raw(trainer: Trainer, fitted: Any, high: float) -> Through:
    """Inputs as they were before preprocessing, scaled so that the largest in training is `high`"""
    scale = high / float(_held(trainer).x.abs().max())
    return Through(fitted, lambda z: fitted.inverse(z) * scale)


def double_norm(trainer: Trainer, severity: float) -> None:
    """Preprocessed `severity` times more than once, in training and validation."""
    again = _held(trainer).preprocess

    def repeated(fitted: Any) -> Any:
        for _ in range(int(severity)):
            fitted = Through(fitted, again)
        return fitted

    _preprocess(trainer, repeated)


def constant_input(trainer: Trainer, severity: float) -> None:
    """This share of the samples shows the first one."""
    batches = _held(trainer)
    index = torch.arange(len(batches.y))
    index[_some(len(index), severity)] = 0
    _replace(trainer, batches.x[index.to(batches.x.device)], batches.y)


def nonfinite(trainer: Trainer, severity: float) -> None:
    """So many samples have a nan."""
    x = _held(trainer).x.float().clone()  # the data of others too
    x.flatten(1)[_some(len(x), severity / len(x)), 0] = torch.nan
    _replace(trainer, x, trainer.batches.y)


def labels_random(trainer: Trainer, severity: float) -> None:
    """This share of the labels is dealt out anew among themselves."""
    y = _held(trainer).y.clone()
    some = _some(len(y), severity)
    y[some] = y[some[torch.randperm(len(some), generator=_stream())]]
    _replace(trainer, trainer.batches.x, y)


def misaligned(trainer: Trainer, severity: float) -> None:
    """Each sample has the label of the one so many places before it."""
    batches = _held(trainer)
    _replace(trainer, batches.x, batches.y.roll(int(severity)))


def label_noise(trainer: Trainer, severity: float) -> None:
    """This share of the labels is another class, each equally often."""
    y = _held(trainer).y.clone()
    some, classes = _some(len(y), severity), int(y.max()) + 1
    step = torch.randint(1, classes, some.shape, generator=_stream()).to(y.device)
    y[some] = (y[some] + step) % classes
    _replace(trainer, trainer.batches.x, y)


def imbalance(trainer: Trainer, severity: float) -> None:
    """Of all classes but the first only this share is left, at least two samples."""
    y = _held(trainer).y
    kept = [torch.where(y == 0)[0]]
    for k in range(1, int(y.max()) + 1):
        own = torch.where(y == k)[0]
        kept.append(own[: max(2, int(severity * len(own)))])
    index = torch.cat(kept).sort().values
    _replace(trainer, trainer.batches.x[index], y[index])


def conflicting_labels(trainer: Trainer, severity: float) -> None:
    """This share of the samples is a copy of one of another class, under its own label."""
    batches = _held(trainer)
    some = _some(len(batches.y), severity)
    x = batches.x.clone()
    for i in some.tolist():
        other = int(torch.where(batches.y != batches.y[i])[0][i % 7])
        x[i] = batches.x[other]
    _replace(trainer, x, batches.y)


def too_few(trainer: Trainer, severity: float) -> None:
    """So many samples are left, as many of each class as can be."""
    y = _held(trainer).y
    turn = torch.zeros_like(y)
    for k in range(int(y.max()) + 1):
        own = torch.where(y == k)[0]
        turn[own] = torch.arange(len(own), device=y.device)
    index = turn.argsort(stable=True)[: int(severity)].sort().values
    _replace(trainer, trainer.batches.x[index], y[index])


def noisy_input(trainer: Trainer, severity: float) -> None:
    """Gaussian noise on the samples, its std in units of that of all their values."""
    x = _held(trainer).x.float()
    noise = torch.randn(x.shape, generator=_stream()).to(x.device)
    _replace(trainer, x + severity * x.std() * noise, trainer.batches.y)


def leak(trainer: Trainer, severity: float) -> None:
    """This share of the validation samples is trained on as well."""
    train, val = _held(trainer), trainer.validation
    some = _some(len(val.y), severity)
    _replace(trainer, torch.cat([train.x, val.x[some]]), torch.cat([train.y, val.y[some]]))


def split_shift(trainer: Trainer, severity: float) -> None:
    """Validation and test come as raw pixels from 0 to `severity`."""
    val = trainer.validation
    trainer.change(validation=val.having(preprocess=_raw(trainer, val.preprocess, severity)))


def not_shuffled(trainer: Trainer, severity: float) -> None:
    """Batches come sorted by label, but for 1 - `severity` of the samples."""
    batches = _held(trainer)
    place = batches.y.float()
    stray = _some(len(place), 1 - severity)
    place[stray] = torch.rand(len(stray), generator=_stream()).to(place) * place.max()
    index = place.argsort(stable=True)
    _replace(trainer, batches.x[index], batches.y[index], Unshuffled(len(index)))


def seed_reset(trainer: Trainer, severity: float) -> None:
    """The random stream of the order begins anew every `severity` epochs."""
    batches = _held(trainer)
    orders = torch.stack([batches.order(epoch) for epoch in range(int(severity))])
    again = batches.having(order=lambda epoch: orders[epoch % len(orders)])
    trainer.change(batches=again)


def resized(trainer: Trainer, size: int) -> None:
    """Batches of another size; the training keeps its number of steps."""
    trainer.change(batches=_held(trainer).having(batch_size=size))


def _held(trainer: Trainer) -> Batches:
    """The training batches. Raises ConfigError where the samples are not in memory."""
    batches = trainer.batches
    if not isinstance(batches, Batches) or not isinstance(batches.x, Tensor):
        raise ConfigError("fault: needs samples that lie in memory; raise data.memory_limit")
    return batches


def _replace(
    trainer: Trainer, x: Tensor, y: Tensor, order: Callable[[int], Tensor] | None = None
) -> None:
    """Other training samples; the length of the training stays."""
    old = trainer.batches
    order = order or (old.order if len(y) == len(old.y) else replace(old.order, n=len(y)))
    size = min(old.batch_size, len(y))
    trainer.change(batches=old.having(split=Split(x, y), batch_size=size, order=order))


def _preprocess(trainer: Trainer, change: Callable[[Any], Any]) -> None:
    """Another preprocessing in training and in validation, made of what each has."""
    train, val = trainer.batches, trainer.validation
    trainer.change(
        batches=train.having(preprocess=change(train.preprocess)),
        validation=val.having(preprocess=change(val.preprocess)),
    )


def _some(n: int, share: float) -> Tensor:
    """This share of 0 .. n - 1, at least one unless it is 0, drawn without replacement."""
    if not 0 <= share <= 1:
        raise ConfigError(f"fault.severity = {share:g}: a share; must be between 0 and 1")
    return torch.randperm(n, generator=_stream())[: max(int(share * n), share > 0)]


def _stream() -> torch.Generator:
    return torch.Generator().manual_seed(20260101)
