"""The batches of a stack: x (R, B, ...), y (R, B). R runs, B batch, N samples."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Repeated:
    """The same batch for every run: a view, nothing is copied. `ids` are the runs that are in."""

    def __init__(self, batches: Any, ids: list[int]):
        self.batches, self.ids = batches, ids
        self.per_epoch = batches.per_epoch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batches, name)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        return tuple(t.expand(len(self.ids), *t.shape) for t in self.batches(step))


class Fed:
    """What R single `batches` give, together.

    Where all runs see one order it is one batch, expanded; where they differ in nothing but the
    order, one gather; else (augmented, or read from the disk) each run's own, put together.
    """

    def __init__(self, batches: Sequence[Any]):
        self.singles = list(batches)
        self.per_epoch = batches[0].per_epoch
        self.way = self._found()

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        return self.way(step)

    def keep(self, runs: list[int]) -> None:
        """Only these runs from now on."""
        self.singles = [self.singles[run] for run in runs]
        if self.way == self._one:
            return
        self._epoch = -1

    def _found(self) -> Any:
        first = self.singles[0]
        plain = all(b.augment is None and b.x is first.x for b in self.singles)
        self._epoch = -1
        if all(b is first for b in self.singles):
            return self._one
        if not (plain and isinstance(first.x, Tensor)):
            return self._each
        orders = [b.order(0) for b in self.singles]
        if all(torch.equal(orders[0], own) for own in orders) and self._agrees(self._one):
            return self._one
        return self._gathered if self._agrees(self._gathered) else self._each

    def _agrees(self, way: Any) -> bool:
        """Whether the first batches of two epochs are those of the single runs, bit for bit."""
        return all(
            torch.equal(mine, own)
            for step in (0, self.per_epoch)
            for mine, own in zip(way(step), self._each(step), strict=True)
        )

    def _one(self, step: int) -> tuple[Tensor, Tensor]:
        return tuple(t.expand(len(self.singles), *t.shape) for t in self.singles[0](step))

    def _each(self, step: int) -> tuple[Tensor, Tensor]:
        return tuple(map(torch.stack, zip(*(b(step) for b in self.singles), strict=True)))

    def _gathered(self, step: int) -> tuple[Tensor, Tensor]:
        first, (epoch, position) = self.singles[0], divmod(step, self.per_epoch)
        if epoch != self._epoch:
            orders = torch.stack([b.order(epoch) for b in self.singles]).to(first.x.device)
            self._epoch, self._indices = epoch, orders.split(first.batch_size, dim=-1)
        index = self._indices[position]
        flat = index.reshape(-1)
        x = first.preprocess(first.x.index_select(0, flat))
        y = first.y.index_select(0, flat)
        return x.unflatten(0, index.shape), y.unflatten(0, index.shape)
