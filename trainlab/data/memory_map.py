"""Images that do not fit in memory: rows of a memory-mapped file, prefetched during training.

Letters: N images of the file, n of this split, B batch, C channels, H W image.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader


class Rows:
    """A selection of images of a file, in some order; stands for a Tensor (n, C, H, W) uint8.

    It has the Tensor methods that splits, preprocessing and batches use. `index_select` and `join`
    read nothing; `split` and `reader` return real tensors.
    """

    dtype = torch.uint8

    def __init__(
        self,
        images: np.ndarray,
        index: Tensor,
        workers: int = 0,
        device: torch.device | str = "cpu",
    ):
        self.images, self.index, self.workers = images, index, workers
        self.device = torch.device(device)
        self.shape = torch.Size((len(index), *images.shape[1:]))

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice) -> Tensor:
        """x[:1] and the like, read from the file."""
        return _read(self.images, self.index[rows].numpy())

    def dim(self) -> int:
        return 4

    def is_floating_point(self) -> bool:
        return False

    def to(self, device: torch.device | str) -> "Rows":
        """Batches will be on this device; the file stays on disk."""
        return Rows(self.images, self.index, self.workers, device)

    def index_select(self, dim: int, index: Tensor) -> "Rows":
        rows = self.index.index_select(0, index.cpu())
        return Rows(self.images, rows, self.workers, self.device)

    def join(self, other: "Rows") -> "Rows":
        """These rows, followed by other rows of the same file."""
        index = torch.cat([self.index, other.index])
        return Rows(self.images, index, self.workers, self.device)

    def split(self, size: int) -> "Chunks":
        """Like Tensor.split; read from disk at each iteration, on the CPU."""
        return Chunks(self.images, self.index.split(size))

    def reader(self) -> "Reader":
        return Reader(self)


class Chunks:
    """Tensors (n, C, H, W) uint8, one for each index tensor."""

    def __init__(self, images: np.ndarray, indices: tuple[Tensor, ...]):
        self.images, self.indices = images, indices

    def __iter__(self) -> Iterator[Tensor]:
        return (_read(self.images, index.numpy()) for index in self.indices)


class Reader:
    """reader(indices, position) -> batch x (B, C, H, W) uint8 of indices[position].

    While positions are consecutive a DataLoader prefetches; any other position restarts it there,
    so a resumed run gets the same batches.
    """

    def __init__(self, rows: Rows):
        self.rows = rows
        self._plan: tuple[Tensor, ...] | None = None
        self._next = -1
        self._batches: Iterator[Tensor] = iter(())

    def __call__(self, indices: tuple[Tensor, ...], position: int) -> Tensor:
        if indices is not self._plan or position != self._next:
            self._plan, self._batches = indices, self._from(indices[position:])
        self._next = position + 1
        return next(self._batches).to(self.rows.device, non_blocking=True)

    def _from(self, indices: tuple[Tensor, ...]) -> Iterator[Tensor]:
        loader = DataLoader(
            Images(self.rows.images),
            batch_sampler=[self.rows.index[index.cpu()].numpy() for index in indices],
            num_workers=self.rows.workers,
            collate_fn=_unchanged,
            pin_memory=self.rows.device.type == "cuda",
            generator=torch.Generator(),  # else it draws from the global stream
        )
        return iter(loader)


class Images:
    """A data set for DataLoader that fetches a whole batch at once."""

    def __init__(self, images: np.ndarray):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, index: np.ndarray) -> Tensor:
        return _read(self.images, index)


def _read(images: np.ndarray, index: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(images[index]))  # a copy: index is an array


def _unchanged(batch: Tensor) -> Tensor:
    return batch
