"""Downloads through torchvision, which is imported here alone and only when asked for."""

import os
from importlib.metadata import version
from pathlib import Path

import torch

from trainlab.errors import DataError


def folder(root: str | None) -> Path:
    """Where data files lie: `root`, else $TRAINLAB_DATA, else ~/.cache/trainlab/data."""
    return Path(root or os.environ.get("TRAINLAB_DATA") or "~/.cache/trainlab/data").expanduser()


def fetched(name: str, root: Path) -> None:
    """Have torchvision.datasets.`name` (MNIST, FashionMNIST) put its files into `root`."""
    raw, what = root / name / "raw", f"{name}'s four files"
    datasets = _torchvision(f"put {what} into {root}")
    try:
        getattr(datasets, name)(str(root), download=True)
    except (RuntimeError, OSError) as error:
        raise _nothing(error, f"looked in {raw} and {root}: {name}'s files go there") from None


def downloaded(url: str, path: Path) -> None:
    """One file from `url` to `path`. The caller checks its digest."""
    datasets = _torchvision(f"put {path.name} into {path.parent}")
    try:
        datasets.utils.download_url(url, str(path.parent), path.name)
    except (RuntimeError, OSError) as error:
        raise _nothing(error, f"{path.name} from {url} goes into {path.parent}") from None


def _nothing(error: Exception, where: str) -> DataError:
    return DataError(
        f"data.download = true: nothing fetched ({error}); {where}, plain or .gz; "
        f"data=digits needs no files"
    )


def _torchvision(instead: str):
    """torchvision.datasets: slow to import, and may clash with torch."""
    try:
        import torchvision.datasets

        return torchvision.datasets
    except ModuleNotFoundError:
        raise DataError(
            f"data.download = true: needs torchvision, which is not installed; pip install "
            f"torchvision, or {instead}; data=digits needs no files"
        ) from None
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        raise DataError(
            f"data.download = true: torch {torch.__version__} and torchvision "
            f"{version('torchvision')} are builds that do not fit together ({error}); install both "
            f"from one index, or {instead}; data=digits needs no files"
        ) from None
