"""The truth of a sweep: a file of each job that has ended, written once, by whoever ran it.

`<sweep>/results/<digest>.json`, whose digest is that of the job's resolved config and of its data:
    {"digest", "data", "folder": "0007_optim.lr=0.1", "number": 7, "values": {"optim.lr": 0.1},
     "state": "finished" | "failed" | "diverged" | "dropped", "reason": "", "results": {"val": ...},
     "monitor": {"name": "val/loss", "value": 0.123}, "steps": 450, "seconds": 1.2,
     "metrics": {"loss": {"name": "loss", "direction": "down", "unit": "", "digits": 4}, ...}}
`<sweep>/sweep.json` says what the sweep is, `<sweep>/jobs.json` the number of each job's folder,
`<sweep>/rungs.json` the scores of paused jobs; who starts a sweep holds `<sweep>/.lock`.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from trainlab.config import keys
from trainlab.errors import (
    BusyError,
    CheckpointError,
    ConfigError,
    NonFiniteError,
    Paused,
    Stopped,
    TrainlabError,
)
from trainlab.observe import metrics_log
from trainlab.storage import atomic, run_folder
from trainlab.sweeps.execute.partition import OF_NO_RUN, within
from trainlab.training.metrics import facts_of

# of no result: how a job is shown, kept and started
PLACES = "data.root", "data.download", "data.memory_limit", "data.workers"
VOLATILE = *OF_NO_RUN, *PLACES, "trust", "log.every", "checkpoint"
LOST = "failed", "diverged"

Rung = tuple[str, float]  # a job's folder, and the share of its steps at which it was judged


def digest(config: dict[str, Any], *more: Any) -> str:
    """16 hex digits of a resolved config, without keys that change no result, and of `more`."""
    parts = [keys.digest(config, lambda name: within(name, VOLATILE)), *more]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def read_manifest(sweep: Path) -> dict[str, Any]:
    """sweep.json; nothing where there is none."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((sweep / "sweep.json").read_text())
        return found if isinstance(found, dict) else {}
    return {}


def read_jobs(sweep: Path) -> dict[str, int]:
    """Folder -> number of every job that was asked for; nothing where there is no jobs.json."""
    path = sweep / "jobs.json"
    return json.loads(path.read_text()) if path.exists() else {}


def write_jobs(sweep: Path, numbers: dict[str, int]) -> None:
    """Only the driver does, before it launches them: who ends reads its number there."""
    if numbers != read_jobs(sweep):
        atomic.write_json(sweep / "jobs.json", numbers)


def read_rungs(sweep: Path) -> dict[Rung, float | None]:
    """The score of each job at each of its pauses, None where it failed."""
    path = sweep / "rungs.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    return {(row["folder"], row["until"]): row["score"] for row in rows}


def write_rungs(sweep: Path, rungs: dict[Rung, float | None]) -> None:
    rows = [{"folder": f, "until": until, "score": score} for (f, until), score in rungs.items()]
    atomic.write_json(sweep / "rungs.json", rows)


def results(sweep: Path) -> list[dict[str, Any]]:
    """What each job that has ended left, in the order of the plan."""
    found = [read(path) for path in (sweep / "results").glob("*.json")]
    return sorted(found, key=lambda result: result["number"])


def read(path: Path) -> dict[str, Any]:
    """One result. Raises CheckpointError where the file is damaged."""
    try:
        result = json.loads(path.read_text())
    except ValueError as error:
        text = f"{path}: damaged; remove it, and the same command writes it anew"
        raise CheckpointError(text) from error
    if "metrics" not in result:
        text = f"{path}: of an earlier version of trainlab; start the sweep in a new folder"
        raise CheckpointError(text)
    return result


def newest(runs: Path, digest: str) -> Path | None:
    """The newest sweep among `runs` that the command of this digest started."""
    found = [
        path.parent
        for path in runs.glob("*/sweep.json")
        if read_manifest(path.parent).get("digest") == digest
    ]
    return max(found, key=lambda path: (path / "sweep.json").stat().st_mtime, default=None)


def forget(sweep: Path, states: Sequence[str]) -> None:
    """Make jobs that ended so start again: their folders first, else they are recovered; their
    results last, for a kill between."""
    again = {path: r for path in (sweep / "results").glob("*.json")
             if (r := read(path))["state"] in states}  # fmt: skip
    for result in again.values():
        shutil.rmtree(sweep / result["folder"], ignore_errors=True)
    folders = {result["folder"] for result in again.values()}
    if rungs := read_rungs(sweep):
        kept = {rung: score for rung, score in rungs.items() if rung[0] not in folders}
        write_rungs(sweep, kept)
    atomic.remove(list(again))


@contextlib.contextmanager
def locked(sweep: Path, key: str) -> Iterator[None]:
    """One driver at a time. Raises BusyError, which says who has the sweep; `key` names its
    folder."""
    with run_folder.locked(sweep, "", f"start another with {key}=NEW"):
        yield


def free(folder: Path, patience: float = 5.0) -> None:
    """Wait for a job of an earlier start that still runs, as a worker may for a moment after its
    sweep was killed. Raises BusyError after `patience` seconds."""
    end = time.monotonic() + patience
    while (folder / ".lock").exists():
        try:
            with run_folder.locked(folder, ""):
                return
        except BusyError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def ended(outcome: Any, directory: Path, cfg: Any) -> None:
    """Keep what became of a job: its summary, or the exception that ended it. A job that was
    stopped or paused has not ended."""
    if isinstance(outcome, Stopped | Paused):
        return
    state, reason = "finished", ""
    if isinstance(outcome, BaseException):
        state = "diverged" if isinstance(outcome, NonFiniteError) else "failed"
        kind = "" if isinstance(outcome, TrainlabError) else f"{type(outcome).__name__}: "
        reason = " ".join(f"{kind}{outcome}".split())
        run_folder.record_failure(directory, outcome)
    elif run_folder.read_status(directory).get("state") != "finished":
        state, reason = "failed", "ended without a status"
    record(directory, cfg, state, reason)


def recovered(folder: Path) -> None:
    """Keep what became of a job whose process died between its end and its result. Raises
    BusyError where somebody went on with it as another run."""
    status = run_folder.read_status(folder)
    if status.get("state") in ("finished", *LOST) and (files := configs(folder)):
        first, cfg = OmegaConf.load(files[0]), OmegaConf.load(files[-1])
        if digest(keys.values(first)) != digest(keys.values(cfg)):
            text = f"{folder}: ended with other settings than the sweep's, by resume"
            raise BusyError(f"{text}; move it away, and the same command runs the job anew")
        record(folder, cfg, status["state"], status.get("reason", ""))


def paused_at(folder: Path) -> float | None:
    """The share of its steps at which a job waits to be gone on with; None: it does not."""
    if run_folder.read_status(folder).get("state") != "paused":
        return None
    found = re.search(r"^pause_at: (\S+)$", configs(folder)[-1].read_text(), re.MULTILINE)
    return float(found[1])


def last(folder: Path, tag: str) -> float | None:
    """The newest figure of a job that has not ended; None where it is not finite. Raises
    ConfigError where there is none: nothing could be chosen by it."""
    figures = [float(row[tag]) for row in metrics_log.rows(folder / "metrics.jsonl") if tag in row]
    if not figures:
        at = run_folder.read_status(folder)["step"]
        text = f"evaluate.every: {folder} paused at step {at}, before its first {tag}"
        raise ConfigError(f"{text}; evaluate more often, or start with a larger share")
    return figures[-1] if math.isfinite(figures[-1]) else None


def saved(directory: Path) -> Any:
    """The config that a job was last started with; None where it never started."""
    return OmegaConf.load(files[-1]) if (files := configs(directory)) else None


def configs(folder: Path) -> list[Path]:
    """Of every start of a job, the newest last."""
    files = [start / "config.yaml" for start in run_folder.start_folders(folder)]
    return [path for path in files if path.exists()]


def record(directory: Path, cfg: Any, state: str, reason: str = "") -> None:
    """Write the result of the job in `directory`, once; `cfg` is its config."""
    sweep, values = directory.parent, varied(directory, cfg)
    summary: dict[str, Any] = {}
    if state == "finished":
        with contextlib.suppress(FileNotFoundError):  # not every task leaves one
            summary = json.loads((directory / "summary.json").read_text())
    config, data = keys.values(cfg), data_of(directory)
    result = {
        "digest": digest(config, values, data),
        "data": data,
        "folder": directory.name,
        "number": read_jobs(sweep)[directory.name],
        "values": values,
        "state": state,
        "reason": reason,
    }
    split, _, measure = config["monitor"].partition("/")
    reached = summary.get("results")
    value = reached[split][measure] if reached else None
    if state == "dropped":
        value = last(directory, config["monitor"])
    result |= {"results": reached} if reached else {}
    result["monitor"] = {"name": config["monitor"], "value": value}
    result["metrics"] = {name: asdict(own) for name, own in facts_of(config).items()}
    result["steps"] = summary.get("steps", run_folder.read_status(directory).get("step", 0))
    result["seconds"] = summary.get("seconds")
    write_once(sweep / "results" / f"{result['digest']}.json", result)


def write_once(path: Path, value: Any) -> None:
    """A JSON file that is there whole or not at all; one that is there stays."""
    path.parent.mkdir(exist_ok=True)
    beside = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    atomic.write_json(beside, value)
    with contextlib.suppress(FileExistsError):
        os.link(beside, path)
    atomic.remove([beside])
    atomic.sync_folder(path.parent)


def varied(directory: Path, cfg: Any) -> dict[str, Any]:
    """What the sweep varies, as this job has it: value of a key, word of a group."""
    files = sorted(directory.glob(".hydra/**/overrides.yaml"))
    lines = yaml.safe_load(files[-1].read_text())
    typed = dict(line.partition("=")[::2] for line in lines)
    found = {}
    for key in read_manifest(directory.parent).get("axes", {}):
        value = OmegaConf.select(cfg, key)
        group = isinstance(value, dict) or OmegaConf.is_dict(value) or value is None
        found[key] = typed[key] if group else keys.values(value)
    return found


def data_of(directory: Path) -> str:
    """The digest of the data that a job had, by its newest checkpoint; "" where there is none."""
    from trainlab.storage import checkpoint

    for path in checkpoint.manifests(directory / "checkpoints"):
        with contextlib.suppress(TrainlabError):
            return checkpoint.manifest(path).get("data", "")
    return ""


def same_data(sweep: Path, load: Callable[[Any], str], key_of_folder: str) -> None:
    """Refuse a sweep whose data changed since. load(config) gives the digest of data as it is now.
    Raises BusyError."""
    seen: dict[str, str] = {}
    for result in results(sweep):
        path = sweep / result["folder"] / "config.yaml"
        if result["data"] and path.exists():
            cfg = OmegaConf.load(path)
            key = json.dumps(keys.values(cfg.data), sort_keys=True)
            if key not in seen:
                seen[key] = load(cfg)
            if seen[key] != result["data"]:
                raise BusyError(
                    f"{sweep}: the data changed since {result['folder']} was trained; "
                    f"start anew with {key_of_folder}=NEW"
                )
