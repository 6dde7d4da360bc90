"""Writes that survive a kill or a power cut: the only writer of checkpoints, manifests, status and
results.

A file is written beside its place, flushed to the disk, renamed over it, and the folder is
flushed: whoever reads sees the old bytes or the new ones. Every system call goes through this
module's names, so that a test can fail or cut each of them. Errors are never swallowed.
"""

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainlab.errors import MachineError

fsync, replace, unlink = os.fsync, os.replace, os.unlink


def write(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, whole or not at all. Raises MachineError (disk full, permission,
    vanished folder)."""
    beside = path.with_name(f"{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        try:
            with open(beside, "xb") as file:
                file.write(data)
                file.flush()
                fsync(file.fileno())
            replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error


def write_json(path: Path, value: Any) -> None:
    """`write` of an indented JSON document; NaN is refused."""
    write(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names, so that a rename or removal lasts."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(paths: list[Path]) -> None:
    """Remove files that nothing refers to any more."""
    for path in paths:
        try:
            unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> MachineError:
    """The one line for a write that failed."""
    reason = errno.errorcode.get(error.errno or 0, type(error).__name__)
    return MachineError(
        f"{path}: cannot write ({error.strerror}, {reason}); free the disk or choose hydra.run.dir="
    )


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError inside becomes a MachineError with the path."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error
