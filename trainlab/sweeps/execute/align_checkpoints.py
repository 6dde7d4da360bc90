"""Where the jobs of a stack begin. Each run keeps its two newest checkpoints, and a kill in the
middle of a round of saves leaves some runs one save ahead of the others."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from trainlab.errors import BusyError, CheckpointError
from trainlab.storage import atomic, checkpoint, restore, run_folder


def align_checkpoints(folders: Mapping[int, str | None]) -> list[list[int]]:
    """Job -> the folder it goes on in, if any; gives the jobs that begin at one step, group by
    group. The newest step that all have is taken; where there is none, that of most. A run that
    is ahead of its group goes back to it."""
    held = {job: steps(folder) if folder else [0] for job, folder in folders.items()}
    found = []
    while held:
        every = {step for own in held.values() for step in own}
        step = max(every, key=lambda s: (sum(s in own for own in held.values()), s))
        found.append([job for job, own in held.items() if step in own])
        for job in found[-1]:
            if max(held.pop(job)) > step:
                back_to(Path(folders[job]), step)
    return sorted(found)


def steps(folder: str) -> list[int]:
    """Of its checkpoints whose manifest is whole; 0 where it has none."""
    found = []
    for path in checkpoint.manifests(Path(folder) / "checkpoints"):
        with suppress(CheckpointError):
            found.append(checkpoint.manifest(path)["step"])
    return found or [0]


def back_to(folder: Path, step: int) -> None:
    """Let go of the checkpoints after `step`, if that one is whole and nobody else has the run."""
    kept = folder / "checkpoints"
    with suppress(CheckpointError, BusyError), run_folder.locked(folder, ""):
        restore.read(kept / f"ckpt-{step:08d}.json")
        newer = [path for path in checkpoint.manifests(kept) if path.stem > f"ckpt-{step:08d}"]
        atomic.remove(newer)
        checkpoint.remove_old(kept)
