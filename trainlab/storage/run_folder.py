"""The folder of one run: made exclusively, held by one process, its status, and the signals that
stop it."""

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
    """A new folder `root/name`, or `root/name-2`, ...: exclusive, so that two starts never share
    one."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            path = root / (name if number == 1 else f"{name}-{number}")
            with suppress(FileExistsError):
                path.mkdir()
                return path
    except OSError as error:
        raise MachineError(
            f"hydra.run.dir = {root / name}: cannot be made ({error.strerror}); choose another"
        ) from error


class Status:
    """Writes status.json: running, finished, paused, stopped, diverged or failed; the step; the
    reason."""

    def __init__(self, directory: Path, digest: str):
        self.path, self.digest, self.step, self.begun = directory / "status.json", digest, 0, False

    def write(self, state: str, reason: str = "") -> None:
        entry = {"state": state, "step": self.step, "reason": reason, "pid": os.getpid()}
        atomic.write_json(self.path, entry | {"config_digest": self.digest})
        self.begun = True


def read_status(directory: Path) -> dict[str, Any]:
    """What status.json of a run says; nothing where there is none."""
    with suppress(OSError, ValueError):
        return json.loads((directory / "status.json").read_text())
    return {}


def starts(directory: Path) -> list[Path]:
    """Where Hydra keeps what was typed: the folder of the run's first start, then one of each
    resume, the newest last. Each holds config.yaml, hydra.yaml and overrides.yaml."""
    return [directory / ".hydra", *sorted(directory.glob(".hydra/resume-*"))]


def next_start(directory: Path) -> str:
    """`hydra.output_subdir` of the next resume: `.hydra/resume-001`, ..."""
    return f".hydra/resume-{len(starts(directory)):03d}"


def record_failure(directory: Path, error: Exception) -> None:
    """Leave a status where a run ended before it wrote one."""
    if not read_status(directory):
        status = {"state": "failed", "step": 0, "reason": str(error)}
        (directory / "status.json").write_text(json.dumps(status))


@contextmanager
def locked(
    directory: Path, digest: str, otherwise: str = "choose another hydra.run.dir"
) -> Iterator[Status]:
    """Hold a run's folder by a lock that the kernel lets go when the process dies.

    Raises BusyError when another process holds it, with what to do `otherwise`. A start that was
    refused before it wrote its first status leaves the status of the run as it was.
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
    """The signal that asked the run to stop, if any. The handler only sets it; the loop reads it
    after a step. `current` is what is set while one is."""

    raised: signal.Signals | None = None
    current: "Flag | None" = None


@contextmanager
def signals() -> Iterator[Flag]:
    """Turn SIGINT, SIGTERM, SIGUSR1, SIGUSR2 and SIGHUP into a flag; a second SIGINT leaves at
    once."""
    if Flag.current is not None:  # one of many runs: all have one flag
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
    except ValueError:  # not the main thread, as in some notebooks: Python allows no handlers there
        pass
    try:
        yield flag
    finally:
        Flag.current = None
        for number, old in before.items():
            signal.signal(number, old)


def pause_step(share: float | None, steps: int) -> int:
    """The step of `pause_at`; 0 is never. 0.07 of 100 is 7, though their product is above it."""
    return 0 if share is None else math.ceil(share * steps - 1e-9)


def stop_error(number: signal.Signals | None, step: int) -> Stopped | Paused:
    """What ends a run at a signal; without one, at a pause."""
    saved = f"at step {step}, checkpoint saved"
    if number is None:
        return Paused(f"paused {saved}")
    return Stopped(f"stopped by {number.name} {saved}", EXIT_CODES[number])
