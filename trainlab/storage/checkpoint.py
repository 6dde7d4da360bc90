"""Checkpoints: safetensors beside a JSON manifest that is written last. No pickle.

`ckpt-00000120.safetensors` holds the tensors of a step, `best-00000080.safetensors` the best
weights so far, and `ckpt-00000120.json` is the commit point: it names both files with size and
SHA-256, holds everything else a run needs, and ends with the SHA-256 of its own body. The two
newest manifests are kept, with every file they name.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from trainlab.errors import CheckpointError
from trainlab.storage import atomic
from trainlab.training.trainer import Trainer

FORMAT = 3  # 2: before the rooms, whose configs name classes by paths that are gone
KEPT = 2
NAME = re.compile(r"ckpt-(\d{8,})\.json")


def save(
    folder: Path,
    step: int,
    tensors: dict[str, Tensor],
    best: dict[str, Tensor],
    best_step: int,
    facts: dict,
) -> None:
    """Write the checkpoint of `step`, then delete files the two newest checkpoints do not use. The
    checkpoint is on disk when this returns."""
    folder.mkdir(exist_ok=True)
    files = {
        f"ckpt-{step:08d}.safetensors": _write(folder / f"ckpt-{step:08d}.safetensors", tensors)
    }
    if best:
        path = folder / f"best-{best_step:08d}.safetensors"
        files[path.name] = _write(path, best)
    head = {"format": FORMAT, "step": step, "best_step": best_step, "files": files}
    body = json.dumps(head | facts, indent=1, allow_nan=False).encode()
    atomic.write(
        folder / f"ckpt-{step:08d}.json",
        body + b"\n" + hashlib.sha256(body).hexdigest().encode() + b"\n",
    )
    remove_old(folder)


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of the names and bytes of tensors."""
    return hashlib.sha256(encoded(tensors)).hexdigest()


def manifest(path: Path) -> dict[str, Any]:
    """The body of a manifest, after its seal is checked. Raises CheckpointError where it is
    damaged."""
    try:
        body, _, seal = path.read_bytes().rstrip(b"\n").rpartition(b"\n")
    except OSError as error:
        raise CheckpointError(f"{path.name}: {error.strerror}") from error
    if hashlib.sha256(body).hexdigest().encode() != seal:
        raise CheckpointError(
            f"{path.name}: its last line is not the SHA-256 of the lines before it"
        )
    facts = json.loads(body)
    if facts["format"] != FORMAT:
        raise CheckpointError(
            f"{path.name}: format {facts['format']}, this trainlab reads {FORMAT}; "
            "use the version that wrote it"
        )
    return facts


def manifests(folder: Path) -> list[Path]:
    """The manifests in `folder`, newest first."""
    found = [path for path in folder.glob("ckpt-*.json") if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(NAME.fullmatch(path.name)[1]), reverse=True)


def encoded(tensors: dict[str, Tensor]) -> bytes:
    """Named tensors as a safetensors file."""
    # clones, because safetensors refuses tensors that share memory, as tied weights do
    return safetensors.torch.save(
        {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
    )


def _write(path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    data = encoded(tensors)
    if not (path.exists() and path.read_bytes() == data):  # the best weights are unchanged
        atomic.write(path, data)
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def remove_old(folder: Path) -> None:
    """Delete every file that the newest KEPT manifests do not name."""
    in_use: set[str] = set()
    n_kept = 0
    for path in manifests(folder):
        try:
            files = set(manifest(path)["files"])
        except CheckpointError:
            continue  # damaged, so none of its files can be used
        if n_kept < KEPT:
            in_use |= files | {path.name}
            n_kept += 1
    # manifests first: a manifest must never outlive the files it names
    unused = [path for path in folder.iterdir() if path.name not in in_use]
    atomic.remove(sorted(unused, key=lambda path: path.suffix != ".json"))


def state_of(trainer: Trainer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything in a Trainer that training changes, as (tensors, JSON-ready numbers), except the
    best weights, which are `trainer.best`.

    Raises NonFiniteError when a loss or weight is not finite, so that bad weights are never saved.
    """
    trainer.recorded()
    model = trainer.model.state_dict()
    if not all(bool(t.isfinite().all()) for t in model.values()):
        trainer.diverged(trainer.step_count, "a weight that is not finite")
    tensors = {f"model.{name}": t for name, t in model.items()}
    saved, names = trainer.optimizer.state_dict()["state"], order(trainer)
    optimizer = {
        names[index]: {
            key: _encoded(f"optimizer.{names[index]}.{key}", value, tensors)
            for key, value in own.items()
        }
        for index, own in saved.items()
    }
    for name, part in extras(trainer).items():
        optimizer[name] = {
            key: _encoded(f"{name}.{key}", value, tensors)
            for key, value in part.state_dict().items()
        }
    *columns, sizes = zip(*trainer.record, strict=True) if trainer.record else ((),)
    for name, column in zip(record_columns(trainer), columns, strict=False):
        tensors[f"record.{name}"] = torch.stack(column)
    if trainer.best_value is not None:
        tensors |= {"best.value": trainer.best_value, "best.step": trainer.best_step}
    if trainer.smoothed is not None:
        tensors["smoothed"] = trainer.smoothed
    best_at = None if trainer.best_step is None else trainer.best_at()
    numbers = {"at": trainer.step_count, "best_at": best_at, "history": trainer.history}
    numbers |= {"record_sizes": list(sizes), "smoothed": trainer.smoothed is not None}
    return tensors, numbers | {"optimizer": optimizer}


def record_columns(trainer: Trainer) -> list[str]:
    """Names of the columns of `Trainer.record`, but for the last, the batch size."""
    return ["loss", *(f"metric.{m.facts.name}" for m in trainer.followed), "clipped"]


def order(trainer: Trainer) -> list[str]:
    """Parameter names in the optimizer's order, which its groups may make differ from the
    model's."""
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    return [names[id(p)] for group in trainer.optimizer.param_groups for p in group["params"]]


def extras(trainer: Trainer) -> dict[str, Any]:
    """The optional parts with a state of their own: weight average and gradient scaler."""
    extras = {"average": trainer.average, "scaler": trainer.scaler}
    return {name: part for name, part in extras.items() if part is not None}


def _encoded(name: str, value: Any, tensors: dict[str, Tensor]) -> Any:
    """A JSON-ready placeholder for `value`; its tensors, also those in lists (L-BFGS), go to
    `tensors`."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, list):
        return [_encoded(f"{name}.{k}", item, tensors) for k, item in enumerate(value)]
    return value
