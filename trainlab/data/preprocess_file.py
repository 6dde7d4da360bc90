"""The file in the run folder for a fitted preprocessing too large for a manifest.

Its name contains its digest, so a checkpoint never refers to an older fit or that of another run.
"""

import hashlib
from pathlib import Path
from typing import Any

from safetensors.torch import load
from torch import Tensor

from trainlab.errors import CheckpointError
from trainlab.storage import atomic, checkpoint


def reference(state: dict[str, Tensor]) -> dict[str, Any]:
    """The entry in a manifest that refers to the file: its name and SHA-256."""
    digest = checkpoint.digest(state)
    return {"file": f"preprocess-{digest[:12]}.safetensors", "sha256": digest}


def write(run: Path, state: dict[str, Tensor]) -> None:
    """Write the file that `reference` names into the run folder; it is on disk when this
    returns."""
    path = run / reference(state)["file"]
    if not path.exists():
        atomic.write(path, checkpoint.encoded(state))


def read(run: Path, entry: dict[str, Any]) -> dict[str, Tensor]:
    """The state that a manifest entry refers to. Raises CheckpointError for a missing or damaged
    file."""
    path = run / entry["file"]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; train the run again") from error
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise CheckpointError(f"{path}: damaged, its SHA-256 is not {entry['sha256']}; restore it")
    return load(data)
