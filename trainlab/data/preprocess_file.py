"""A fitted preprocessing that is too large for a manifest: a file of tensors in the run folder.

Its name holds its digest, so that a checkpoint never points at another run's or an older fit.
"""

import hashlib
from pathlib import Path
from typing import Any

from safetensors.torch import load
from torch import Tensor

from trainlab.errors import CheckpointError
from trainlab.storage import atomic, checkpoint


def named(state: dict[str, Tensor]) -> dict[str, Any]:
    """What the facts of a checkpoint say instead of the numbers: file and SHA-256."""
    digest = checkpoint.digest(state)
    return {"file": f"preprocess-{digest[:12]}.safetensors", "sha256": digest}


def write(run: Path, state: dict[str, Tensor]) -> None:
    """Put the file that `named` names into the run folder. Durable when it returns."""
    path = run / named(state)["file"]
    if not path.exists():
        atomic.write(path, checkpoint.encoded(state))


def read(run: Path, told: dict[str, Any]) -> dict[str, Tensor]:
    """The state that `named` told of. Raises CheckpointError where the file is not as written."""
    path = run / told["file"]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; train the run again") from error
    if hashlib.sha256(data).hexdigest() != told["sha256"]:
        raise CheckpointError(f"{path}: damaged, its SHA-256 is not {told['sha256']}; restore it")
    return load(data)
