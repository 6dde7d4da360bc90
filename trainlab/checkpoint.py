"""Checkpoints: safetensors beside a JSON manifest that is written last. No pickle.

`ckpt-00000120.safetensors` holds the tensors of a step, `best-00000080.safetensors` the best
weights so far, and `ckpt-00000120.json` is the commit point: it names both files with size and
SHA-256, holds everything else a run needs, and ends in the SHA-256 of its own body. The two newest
manifests are kept, with every file they name.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from
from safetensors.torch import save as bytes_of
from torch import Tensor

from trainlab import durable
from trainlab.errors import CheckpointError
from trainlab.train import Trainer

FORMAT = 1
KEPT = 2
RECORD = "loss", "correct", "clipped"  # columns of Trainer.record
NAME = re.compile(r"ckpt-(\d{8,})\.json")


@dataclass(frozen=True)
class Checkpoint:
    """What was read back: step, tensors by name, best weights by name (may be empty), all other
    facts."""

    step: int
    tensors: dict[str, Tensor]
    best: dict[str, Tensor]
    facts: dict[str, Any]


def save(
    folder: Path,
    step: int,
    tensors: dict[str, Tensor],
    best: dict[str, Tensor],
    best_step: int,
    facts: dict,
) -> None:
    """Write the checkpoint of `step`, then let go of what the two newest do not need. Durable when
    it returns."""
    folder.mkdir(exist_ok=True)
    files = {
        f"ckpt-{step:08d}.safetensors": _write(folder / f"ckpt-{step:08d}.safetensors", tensors)
    }
    if best:
        path = folder / f"best-{best_step:08d}.safetensors"
        files[path.name] = _write(path, best)
    head = {"format": FORMAT, "step": step, "best_step": best_step, "files": files}
    body = json.dumps(head | facts, indent=1, allow_nan=False).encode()
    durable.write(
        folder / f"ckpt-{step:08d}.json",
        body + b"\n" + hashlib.sha256(body).hexdigest().encode() + b"\n",
    )
    _let_go(folder)


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and what was wrong with each newer one.

    (None, []) where there is none at all; CheckpointError where there are some and all are damaged.
    """
    wrong: list[str] = []
    for path in _manifests(folder):
        try:
            return read(path), wrong
        except CheckpointError as error:
            wrong.append(str(error))
    if wrong:
        raise CheckpointError(
            f"resume = {folder.parent}: all {len(wrong)} checkpoints are damaged "
            f"({'; '.join(wrong)}); restore one, or start again without resume"
        )
    return None, wrong


def read(path: Path) -> Checkpoint:
    """One checkpoint by its manifest. Raises CheckpointError when a byte of it is not what was
    written."""
    facts = manifest(path)
    tensors: dict[str, dict[str, Tensor]] = {"ckpt": {}, "best": {}}
    for name, written in facts["files"].items():
        try:
            data = (path.parent / name).read_bytes()
        except OSError as error:
            raise CheckpointError(f"{name}: {error.strerror}") from error
        if len(data) != written["bytes"] or hashlib.sha256(data).hexdigest() != written["sha256"]:
            raise CheckpointError(f"{name}: its SHA-256 is not the one in {path.name}")
        try:
            tensors[name[:4]] = tensors_from(data)
        except SafetensorError as error:
            raise CheckpointError(f"{name}: not a safetensors file ({error})") from error
    return Checkpoint(facts["step"], tensors["ckpt"], tensors["best"], facts)


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of named tensors, bit for bit."""
    return hashlib.sha256(_bytes(tensors)).hexdigest()


def manifest(path: Path) -> dict[str, Any]:
    """The checked body of a manifest."""
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


def _manifests(folder: Path) -> list[Path]:
    """Newest first."""
    found = [path for path in folder.glob("ckpt-*.json") if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(NAME.fullmatch(path.name)[1]), reverse=True)


def _bytes(tensors: dict[str, Tensor]) -> bytes:
    # clones: safetensors refuses tensors that share memory, as tied weights do
    return bytes_of({name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()})


def _write(path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    data = _bytes(tensors)
    if not (path.exists() and path.read_bytes() == data):  # best weights that did not change
        durable.write(path, data)
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _let_go(folder: Path) -> None:
    wanted: set[str] = set()
    kept = 0
    for path in _manifests(folder):
        try:
            files = set(manifest(path)["files"])
        except CheckpointError:
            continue  # damaged: it names nothing that could be used
        if kept < KEPT:
            wanted |= files | {path.name}
            kept += 1
    # manifests first: a manifest must never outlive the files it names
    doomed = [path for path in folder.iterdir() if path.name not in wanted]
    durable.remove(sorted(doomed, key=lambda path: path.suffix != ".json"))


def state_of(trainer: Trainer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything of a Trainer that changes while it trains, as (tensors, JSON-ready numbers); its
    best weights are `trainer.best`.

    Raises NonFiniteError when a loss or weight is not finite, so that bad weights are never saved.
    """
    trainer.recorded()
    model = trainer.model.state_dict()
    if not all(bool(t.isfinite().all()) for t in model.values()):
        trainer.diverged(trainer.at, "a weight that is not finite")
    tensors = {f"model.{name}": t for name, t in model.items()}
    optimizer = {
        str(index): {
            name: _encoded(f"optimizer.{index}.{name}", v, tensors) for name, v in own.items()
        }
        for index, own in trainer.optimizer.state_dict()["state"].items()
    }
    for name, part in _extras(trainer).items():
        optimizer[name] = {
            key: _encoded(f"{name}.{key}", value, tensors)
            for key, value in part.state_dict().items()
        }
    *columns, sizes = zip(*trainer.record, strict=True) if trainer.record else ((),)
    for name, column in zip(RECORD, columns, strict=False):
        tensors[f"record.{name}"] = torch.stack(column)
    if trainer.best_value is not None:
        tensors |= {"best.value": trainer.best_value, "best.step": trainer.best_step}
    if trainer.smoothed is not None:
        tensors["smoothed"] = trainer.smoothed
    best_at = None if trainer.best_step is None else trainer.best_at()
    numbers = {"at": trainer.at, "best_at": best_at, "history": trainer.history}
    numbers |= {"record_sizes": list(sizes), "smoothed": trainer.smoothed is not None}
    return tensors, numbers | {"optimizer": optimizer}


def _extras(trainer: Trainer) -> dict[str, Any]:
    """What has a state beside model and optimizer, where the recipe asks for it."""
    extras = {"average": trainer.average, "scaler": trainer.scaler}
    return {name: part for name, part in extras.items() if part is not None}


def restore(
    trainer: Trainer, tensors: dict[str, Tensor], best: dict[str, Tensor], numbers: dict[str, Any]
) -> None:
    """The inverse of `state_of`: CheckpointError when a weight is missing, extra or of another
    shape, KeyError when anything else is missing."""
    device = trainer.params[0].device
    own = trainer.model.state_dict()
    saved = {name[6:]: t for name, t in tensors.items() if name.startswith("model.")}
    _same_shapes(own, saved)
    if "best.value" in tensors:
        _same_shapes(own, best)
    trainer.model.load_state_dict(saved)
    told = {
        index: {name: _decoded(value, tensors) for name, value in own.items()}
        for index, own in numbers["optimizer"].items()
    }
    for name, part in _extras(trainer).items():
        part.load_state_dict(told.pop(name))
    state = {int(index): own for index, own in told.items()}
    # lr, betas and the rest are the recipe's, which is the same or was allowed to differ
    groups = trainer.optimizer.state_dict()["param_groups"]
    trainer.optimizer.load_state_dict({"state": state, "param_groups": groups})
    if numbers["record_sizes"]:
        columns = (tensors[f"record.{name}"].to(device).unbind() for name in RECORD)
        trainer.record = list(zip(*columns, numbers["record_sizes"], strict=True))
    trainer.best = {name: t.to(device) for name, t in best.items()}
    trainer.best_value, trainer.best_step = tensors.get("best.value"), tensors.get("best.step")
    trainer.smoothed = tensors["smoothed"] if numbers["smoothed"] else None
    trainer.history[:] = [tuple(entry) for entry in numbers["history"]]  # a schedule may hold it
    trainer.at = numbers["at"]
    if numbers["best_at"] != (None if trainer.best_step is None else trainer.best_at()):
        raise KeyError("best.step")


def _encoded(name: str, value: Any, tensors: dict[str, Tensor]) -> Any:
    """A JSON-ready stand-in; tensors, also those in lists (L-BFGS), go to `tensors`."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, list):
        return [_encoded(f"{name}.{k}", each, tensors) for k, each in enumerate(value)]
    return value


def _decoded(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        return tensors[value["tensor"]]
    return [_decoded(each, tensors) for each in value] if isinstance(value, list) else value


def _same_shapes(own: dict[str, Tensor], saved: dict[str, Tensor]) -> None:
    for name in sorted(own.keys() | saved.keys()):
        here, there = (
            f"{tuple(s[name].shape)} {s[name].dtype}" if name in s else "missing"
            for s in (own, saved)
        )
        if here != there:
            raise CheckpointError(
                f"{name}: the model has {here}, the checkpoint {there}; resume with the same recipe"
            )
