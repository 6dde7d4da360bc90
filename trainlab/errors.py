"""The error tree, its exit codes, and the one-line form of an error.

Exit codes: 0 success or paused, 2 configuration, 3 data, 4 checkpoint or resume, 5 run directory
busy, 6 machine (disk, permission, device, memory), 7 non-finite loss, 75 stopped by the scheduler,
130 SIGINT, 143 SIGTERM.
"""

from typing import Any


class TrainlabError(Exception):
    """An error that the user can fix. Its message reads `key = value: what is allowed; what to
    type`."""

    kind = "internal"
    exit_code = 1


class ConfigError(TrainlabError):
    kind, exit_code = "config", 2


class DataError(TrainlabError):
    kind, exit_code = "data", 3


class CheckpointError(TrainlabError):
    kind, exit_code = "checkpoint", 4


class BusyError(TrainlabError):
    kind, exit_code = "busy", 5


class MachineError(TrainlabError):
    kind, exit_code = "machine", 6


class NonFiniteError(TrainlabError):
    """A loss or weight is not finite, first at `step`, counted from 1."""

    kind, exit_code = "nonfinite", 7

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class Paused(TrainlabError):
    """The run reached its `pause_at`; its checkpoint is saved and the message says how to
    resume."""

    kind, exit_code = "paused", 0


class Stopped(TrainlabError):
    """A signal asked the run to stop; its checkpoint is saved and the message says how to
    resume."""

    kind = "stopped"

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


def resumable(error: Stopped | Paused, directory: Any) -> Stopped | Paused:
    """The same error of a run alone, which says how to go on; a sweep does so by itself."""
    more = " pause_at=null" if isinstance(error, Paused) else ""
    error.args = (f"{error}; resume with: python -m trainlab resume='{directory}'{more}",)
    return error


def lower_lr(lr: float) -> str:
    """The override to try where the loss diverged at this lr."""
    return f"optim.lr={min(lr / 10, 0.1):.2g}"


def one_line(error: TrainlabError) -> str:
    """`trainlab: error[config]: optim = adma: not one of adam, sgd; did you mean adam?`"""
    text = " ".join(str(error).split())
    if isinstance(error, Stopped | Paused):
        return f"trainlab: {text}"
    return f"trainlab: error[{error.kind}]: {text}"


def as_typed(value: Any) -> str:
    """A value as it is typed on the command line: true, null, [16,16]."""
    if isinstance(value, list):
        return "[" + ",".join(map(as_typed, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value) or "(empty)"
