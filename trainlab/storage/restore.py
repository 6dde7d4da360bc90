"""Resume from a checkpoint: read it, check it, and restore a Trainer from it. checkpoint.py writes
it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as tensors_from
from torch import Tensor

from trainlab.config import keys
from trainlab.errors import CheckpointError, ConfigError
from trainlab.storage import run_folder
from trainlab.storage.checkpoint import (
    extras,
    manifest,
    manifests,
    order,
    record_columns,
    remove_old,
)
from trainlab.training import randomness
from trainlab.training.trainer import Progress, Trainer


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read from disk: step, tensors by name, best weights by name (may be empty), and
    all other facts."""

    step: int
    tensors: dict[str, Tensor]
    best: dict[str, Tensor]
    facts: dict[str, Any]


def find_checkpoint(
    directory: Path, facts: dict[str, Any], steps: int, allowed: Sequence[str]
) -> tuple[Checkpoint | None, list[str]]:
    """The newest undamaged checkpoint to resume from, and notes to print. Changes nothing.

    Raises CheckpointError when none can be read, when the recipe or the data changed in a way
    that is not allowed, and when the run of so many `steps` is already past its end; ConfigError
    when it is past its `pause_at`.
    """
    saved, wrong = newest(directory / "checkpoints")
    notes = [f"warning: {text}; using the checkpoint before it" for text in wrong]
    if saved is None:
        return None, notes
    for name in (
        *facts,
        "metrics_bytes",
        "trainer",
        "random",
        "elapsed_seconds",
        "resumes",
    ):
        if name not in saved.facts:
            raise _missing_entry(directory, saved, name)
    require_same_recipe(facts, saved.facts, allowed)
    if saved.step > steps:
        raise CheckpointError(
            f"resume = {directory}: the checkpoint is at step {saved.step} and the run "
            f"would end at {steps}: nothing to do; raise epochs or max_steps"
        )
    share = facts["config"]["pause_at"]
    if 0 < run_folder.pause_step(share, steps) <= saved.step:
        raise ConfigError(
            f"pause_at = {share}: the checkpoint is at step {saved.step} of {steps} already; "
            "use pause_at=null to train to the end"
        )
    now = facts["environment"]
    for key, then in saved.facts["environment"].items():
        if now[key] != then:
            notes.append(
                f"warning: {key} is {now[key]}, the checkpoint has {then}: bits may differ"
            )
    for key in ("epochs", "max_steps"):
        now, then = (run["config"][key] for run in (facts, saved.facts))
        if now != then:
            notes.append(f"{key} was {then}, now {now}: schedules follow the new length")
    return saved, [*notes, f"resumed {directory} at step {saved.step} of {steps}"]


def resume(directory: Path, saved: Checkpoint, trainer: Trainer) -> None:
    """Restore the Trainer and the random streams to the checkpoint, and delete what a kill in the
    middle of a save left behind."""
    remove_old(directory / "checkpoints")
    try:
        restore(trainer, saved.tensors, saved.best, saved.facts["trainer"])
        randomness.restore_random_state(saved.tensors, saved.facts["random"])
    except KeyError as error:
        raise _missing_entry(directory, saved, error) from error


def _missing_entry(directory: Path, saved: Checkpoint, name: object) -> CheckpointError:
    return CheckpointError(
        f"resume = {directory}: {name} is missing from the checkpoint of step "
        f"{saved.step}; remove that checkpoint, or start again without resume"
    )


def require_same_recipe(now: dict[str, Any], then: dict[str, Any], allowed: Sequence[str]) -> None:
    """Raise CheckpointError unless recipe and data are those the checkpoint was made with."""
    here, there = keys.flat(now["config"]), keys.flat(then["config"])
    for key in sorted(here.keys() | there.keys()):
        if here.get(key) != there.get(key) and not keys.may_differ(key) and key not in allowed:
            raise CheckpointError(
                f"{key} = {here.get(key)}: the checkpoint was made with {there.get(key)}; "
                f"start a new run, or allow it with resume_allow=[{key}]"
            )
    if now["data"] != then["data"] and "data" not in allowed:
        raise CheckpointError(
            "data: these are not the data the checkpoint was made with; start a new run, "
            "or allow it with resume_allow=[data]"
        )


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest undamaged checkpoint, and what is wrong with each newer one.

    (None, []) where there is none at all; CheckpointError where none of them can be read.
    """
    wrong: list[str] = []
    for path in manifests(folder):
        try:
            return read(path), wrong
        except CheckpointError as error:
            wrong.append(str(error))
    if wrong:
        raise CheckpointError(
            f"resume = {folder.parent}: none of its checkpoints can be read "
            f"({'; '.join(wrong)}); restore one, or start again without resume"
        )
    return None, wrong


def read(path: Path) -> Checkpoint:
    """Read one checkpoint by its manifest. Raises CheckpointError when any byte differs from what
    was written."""
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
    states = {
        name: {key: _decoded(value, tensors) for key, value in state.items()}
        for name, state in numbers["optimizer"].items()
    }
    for name, part in extras(trainer).items():
        part.load_state_dict(states.pop(name))
    state = {order(trainer).index(name): values for name, values in states.items()}
    # lr, betas and so on come from the recipe, which is the same or was allowed to differ
    groups = trainer.optimizer.state_dict()["param_groups"]
    trainer.optimizer.load_state_dict({"state": state, "param_groups": groups})
    progress = Progress(
        numbers["at"],
        history=[tuple(entry) for entry in numbers["history"]],
        smoothed=tensors["smoothed"] if numbers["smoothed"] else None,
        best={name: t.to(device) for name, t in best.items()},
        best_value=tensors.get("best.value"),
        best_step=tensors.get("best.step"),
    )
    if numbers["record_sizes"]:
        columns = (
            tensors[f"record.{name}"].to(device).unbind() for name in record_columns(trainer)
        )
        progress.record = list(zip(*columns, numbers["record_sizes"], strict=True))
    trainer.set_progress(progress)
    if numbers["best_at"] != (None if trainer.best_step is None else trainer.best_at()):
        raise KeyError("best.step")


def _decoded(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        return tensors[value["tensor"]]
    return [_decoded(item, tensors) for item in value] if isinstance(value, list) else value


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
