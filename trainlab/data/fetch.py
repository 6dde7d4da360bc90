"""Downloads through torchvision, which is imported only here and only for data.download=true."""

import os
from importlib.metadata import version
from pathlib import Path

import torch

from trainlab.errors import DataError


def folder(root: str | None) -> Path:
    """The folder of data files: `root`, else $TRAINLAB_DATA, else ~/.cache/trainlab/data."""
    return Path(root or os.environ.get("TRAINLAB_DATA") or "~/.cache/trainlab/data").expanduser()


def download_dataset(name: str, root: Path) -> None:
    """Let torchvision.datasets.`name` (MNIST, FashionMNIST) download its files into `root`."""
    raw, what = root / name / "raw", f"{name}'s four files"
    datasets = _torchvision(f"put {what} into {root}")
    try:
        getattr(datasets, name)(str(root), download=True)
    except (RuntimeError, OSError) as error:
        raise _download_failed(
            error, f"looked in {raw} and {root}: {name}'s files go there"
        ) from None


def download_file(url: str, path: Path) -> None:
    """Download one file from `url` to `path`. The caller checks its digest."""
    datasets = _torchvision(f"put {path.name} into {path.parent}")
    try:
        datasets.utils.download_url(url, str(path.parent), path.name)
    except (RuntimeError, OSError) as error:
        raise _download_failed(error, f"{path.name} from {url} goes into {path.parent}") from None


def _download_failed(error: Exception, where: str) -> DataError:
    return DataError(
        f"data.download = true: the download failed ({error}); {where}, plain or .gz; "
        f"data=digits needs no files"
    )


def _torchvision(instead: str):
    """torchvision.datasets, imported here because it is slow and may not match torch's build."""
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
            f"{version('torchvision')} are builds that do not match ({error}); install both "
            f"from one index, or {instead}; data=digits needs no files"
        ) from None
