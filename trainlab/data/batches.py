"""Training position -> batch: an index, a gather and one multiply-add.

Letters: N samples, B batch, R runs of a stack. Data, order and batch all lie on one device.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from trainlab.data.splits import Split
from trainlab.errors import ConfigError
from trainlab.training.randomness import stream


def shuffled(n: int, seed: int, epoch: int) -> Tensor:
    """The order (n,) int64 of one epoch: a function of (seed, epoch), so it is never saved."""
    return torch.randperm(n, generator=stream(seed, "order", epoch))


def unshuffled(n: int, seed: int, epoch: int) -> Tensor:
    """The order of the split itself in every epoch (data.order=sorted)."""
    return torch.arange(n)


class Batches:
    """The batch of any training step, without having drawn the ones before it.

    `order(epoch)` gives the indices of one epoch: (N,), or (R, N) for a stack of R runs, whose
    batch is then x (R, B, ...), y (R, B). Every epoch has the same length. The only state is a
    cache of the current epoch's order. `per_epoch` batches make an epoch; the last may be short.
    `augment(x, y, step)` changes x (B, ...), uint8 pixels or float32 features before preprocessing,
    and y (B,) int64; it returns x in the same units and y, or shares of the classes (B, K).
    """

    def __init__(
        self,
        split: Split,
        preprocess: Any,
        batch_size: int,
        order: Callable[[int], Tensor],
        dtype: torch.dtype = torch.float32,
        augment: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]] | None = None,
    ):
        self.x, self.y = split.x, split.y
        self.preprocess = preprocess.to(self.x.device, dtype).expand(self.x.shape[1:])
        self.batch_size, self.order, self.augment = batch_size, order, augment
        # images on the disk are read ahead, in the order of the batches to come
        self._read = self.x.reader() if hasattr(self.x, "reader") else self._gather
        self._load(0)
        self.per_epoch = len(self._indices)

    @classmethod
    def in_order(
        cls,
        split: Split,
        preprocess: Any,
        batch_size: int,
        runs: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> "Batches":
        """The split in file order, for evaluation; with `runs`, the same batch for every run."""
        index = torch.arange(len(split))
        index = index if runs is None else index.expand(runs, -1)
        return cls(split, preprocess, batch_size, lambda epoch: index, dtype)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """x (B, ...) in `dtype` and y (B,) of one step, counted from 0 over all epochs."""
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._load(epoch)
        index = self._indices[position]
        x, y = self._read(self._indices, position), self.y.index_select(0, index.reshape(-1))
        if self.augment is not None:
            if index.dim() > 1:  # mixup would mix runs, and no run would see its own draws
                raise ConfigError("augment: a stack whose runs have orders of their own has none")
            x, y = self.augment(x, y, step)
        # the multiply-add reads uint8 pixels itself, no slower than after a conversion
        x = self.preprocess(x)
        return (x, y) if index.dim() == 1 else tuple(t.unflatten(0, index.shape) for t in (x, y))

    def inputs(self) -> Iterator[Tensor]:
        """x (B, ...) of one epoch."""
        return (self(step)[0] for step in range(self.per_epoch))

    def _gather(self, indices: tuple[Tensor, ...], position: int) -> Tensor:
        # index_select: 3 us for MNIST B=128 where x[index] takes 56 (one core)
        return self.x.index_select(0, indices[position].reshape(-1))

    def _load(self, epoch: int) -> None:
        order = self.order(epoch).to(self.x.device)
        self._epoch, self._indices = epoch, order.split(self.batch_size, dim=-1)
