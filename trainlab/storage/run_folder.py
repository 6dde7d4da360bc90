"""The folder of one run: its creation, its lock, its status file, and the signals that stop the
run."""

import fcntl
import itertools
import json
import math
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from trainlab.errors import BusyError, MachineError, NonFiniteError, Paused, Stopped
from trainlab.storage import atomic

EXIT_CODES = {
    signal.SIGINT: 130,
    signal.SIGTERM: 143,
    signal.SIGUSR1: 75,
    signal.SIGUSR2: 75,
    signal.SIGHUP: 75,
}


def make(root: Path, name: str) -> Path:
    """Create and return `root/name`, or `root/name-2`, ...: two runs never share a folder."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            path = root / (name if number == 1 else f"{name}-{number}")
            with suppress(FileExistsError):
                path.mkdir()
                return path
    except OSError as error:
        raise MachineError(
            f"hydra.run.dir = {root / name}: cannot be created ({error.strerror}); choose another"
        ) from error


class Status:
    """Writes status.json: the state (running, finished, paused, stopped, diverged or failed), the
    step and the reason."""

    def __init__(self, directory: Path, digest: str):
        self.path, self.digest, self.step, self.begun = directory / "status.json", digest, 0, False

    def write(self, state: str, reason: str = "") -> None:
        entry = {"state": state, "step": self.step, "reason": reason, "pid": os.getpid()}
        atomic.write_json(self.path, entry | {"config_digest": self.digest})
        self.begun = True


def read_status(directory: Path) -> dict[str, Any]:
    """The content of a run's status.json; {} where there is none."""
    with suppress(OSError, ValueError):
        return json.loads((directory / "status.json").read_text())
    return {}


def start_folders(directory: Path) -> list[Path]:
    """Where Hydra keeps what was typed: the folder of the run's first start, then one of each
    resume, the newest last. Each holds config.yaml, hydra.yaml and overrides.yaml."""
    return [directory / ".hydra", *sorted(directory.glob(".hydra/resume-*"))]


def next_start(directory: Path) -> str:
    """`hydra.output_subdir` of the next resume: `.hydra/resume-001`, ..."""
    return f".hydra/resume-{len(start_folders(directory)):03d}"


def record_failure(directory: Path, error: Exception) -> None:
    """Write status.json for a run that ended before it wrote one itself."""
    if not read_status(directory):
        status = {"state": "failed", "step": 0, "reason": str(error)}
        (directory / "status.json").write_text(json.dumps(status))


@contextmanager
def locked(
    directory: Path, digest: str, otherwise: str = "choose another hydra.run.dir"
) -> Iterator[Status]:
    """Lock a run's folder; the kernel releases the lock when the process dies.

    Raises BusyError when another process holds it, with what to do `otherwise`. A run refused
    before its first status is written leaves an existing status.json alone.
    """
    with open(directory / ".lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise BusyError(
                f"{directory}: in use by {lock.read().strip() or 'another process'}; "
                f"wait for it, or {otherwise}"
            ) from error
        lock.truncate(0)
        lock.write(f"pid {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        status = Status(directory, digest)
        states = {Paused: "paused", Stopped: "stopped", NonFiniteError: "diverged"}
        states[KeyboardInterrupt] = "stopped"
        try:
            yield status
        except BaseException as error:
            if isinstance(error, NonFiniteError):
                status.step = error.step
            if status.begun and directory.exists():
                status.write(states.get(type(error), "failed"), f"{type(error).__name__}: {error}")
            raise


class Flag:
    """The signal that asked the run to stop, if any. The handler only sets it; the training loop
    reads it after each step. `current` is the flag while handlers are installed."""

    raised: signal.Signals | None = None
    current: "Flag | None" = None


@contextmanager
def signals() -> Iterator[Flag]:
    """Turn SIGINT, SIGTERM, SIGUSR1, SIGUSR2 and SIGHUP into a flag; a second SIGINT interrupts at
    once."""
    if Flag.current is not None:  # one of many runs, which share one flag
        yield Flag.current
        return
    flag = Flag.current = Flag()

    def handler(number: int, frame: object) -> None:
        if flag.raised != signal.SIGINT:  # a sweep sends its jobs SIGTERM after a Ctrl-C
            flag.raised = signal.Signals(number)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    before = {}
    try:
        for number in EXIT_CODES:
            before[number] = signal.signal(number, handler)
    except ValueError:  # Python allows handlers in the main thread only; some notebooks use another
        pass
    try:
        yield flag
    finally:
        Flag.current = None
        for number, old in before.items():
            signal.signal(number, old)


def pause_step(share: float | None, steps: int) -> int:
    """The step at which `pause_at` pauses; 0 means never. 0.07 * 100 rounds to above 7 in floats,
    so 1e-9 is subtracted."""
    return 0 if share is None else math.ceil(share * steps - 1e-9)


def stop_error(number: signal.Signals | None, step: int) -> Stopped | Paused:
    """The error that ends a run at a signal; without one, at a pause."""
    saved = f"at step {step}, checkpoint saved"
    if number is None:
        return Paused(f"paused {saved}")
    return Stopped(f"stopped by {number.name} {saved}", EXIT_CODES[number])
