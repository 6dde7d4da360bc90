"""Atomic writes that survive a kill or a power cut. Checkpoints, manifests, status files and
results are written here only.

A temporary file is written in the same folder, flushed to disk and renamed over the target, then
the folder is flushed: a reader sees either the old bytes or the new ones. Every system call goes
through a name of this module, so that a test can make each of them fail. Errors are never
swallowed.
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
    """Replace the content of `path` by `data`, all or nothing. Raises MachineError (disk full,
    permission denied, folder gone)."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                fsync(file.fileno())
            replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error


def write_json(path: Path, value: Any) -> None:
    """`write` an indented JSON document. Raises ValueError for NaN."""
    write(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def sync_folder(folder: Path) -> None:
    """Flush a folder's directory entry, so that a rename or removal survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(paths: list[Path]) -> None:
    """Delete files; one that is gone already is no error."""
    for path in paths:
        try:
            unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> MachineError:
    """The error for a failed write."""
    reason = errno.errorcode.get(error.errno or 0, type(error).__name__)
    return MachineError(
        f"{path}: cannot write ({error.strerror}, {reason}); free disk space, or choose another "
        "hydra.run.dir"
    )


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError inside becomes a MachineError with the path."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error
