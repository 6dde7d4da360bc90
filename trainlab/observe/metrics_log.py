"""metrics.jsonl, the truth of a run; its rows go to TensorBoard's event file as they are written.

A row is one line of JSON, without a clock, so that it is bit-identical after a resume:
    {"step": 50, "train/loss": 0.31, "activation_std/01.relu": 0.82, ...}       scalars of one step
    {"step": 50, "histogram": "weight/01.w", "low": -1.0, "high": 1.0, "counts": [...]}
    {"text": "recipe", "markdown": "..."}
    {"curve": "schedule/lr", "values": [0.0, 0.05, ...]}                         over the training
    {"end": 450}               the training ended or was stopped at this step (of probed runs only)
Figures that are not finite are the strings "nan", "inf" and "-inf".
"""

import contextlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from trainlab.errors import CheckpointError
from trainlab.observe.event_file import Charts, Events
from trainlab.storage import atomic

Row = dict[str, Any]
ENCODE = json.JSONEncoder(allow_nan=False, check_circular=False).encode  # dumps makes one a row
WAIT = 2.0  # s that rows may wait: written together they cost a third of one by one


def rows(path: Path) -> Iterator[Row]:
    """The rows of a metrics.jsonl. A torn last line, which a kill can leave, is skipped.

    Raises CheckpointError where a whole line is not JSON.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise CheckpointError(
                        f"{path}: line {number} is not JSON ({error}); start a new run"
                    ) from error


class Log:
    """Writes one run's rows; a context manager. MachineError names the file that cannot be written.

    On resume, `keep` bytes of metrics.jsonl stay (None: every whole row) and the events are made
    anew from them, so that nothing is doubled. Raises CheckpointError when the file has fewer.
    With `charts` the events have values beside what the rows say.
    """

    def __init__(self, directory: Path, keep: int | None = None, charts: Charts | None = None):
        self.path = Path(directory) / "metrics.jsonl"
        self.events = Events(Path(directory), charts)
        data = self.path.read_bytes() if self.path.exists() else b""
        if keep is None:
            keep = data.rfind(b"\n") + 1
        if len(data) < keep or data[:keep][-1:] not in (b"", b"\n"):
            raise CheckpointError(
                f"{self.path}: has {len(data)} bytes, the checkpoint was made with {keep} bytes of "
                "whole rows; the file was changed since, so start a new run"
            )
        with atomic.naming(self.path):
            self.file: IO[bytes] = open(self.path, "ab")  # noqa: SIM115
            self.file.truncate(keep)
        atomic.remove(sorted(Path(directory).glob("events.out.tfevents.*")))
        self.events.write(rows(self.path))
        self.waiting: list[Row] = []
        self.written = time.monotonic()

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One row with every {tag: value}."""
        self.waiting.append({"step": step} | {tag: _plain(v) for tag, v in values.items()})
        if time.monotonic() - self.written > WAIT:
            self.flush()

    def histogram(
        self, step: int, tag: str, counts: Sequence[int], low: float, high: float
    ) -> None:
        """One row with `counts` over equal bins between `low` and `high`."""
        limits = {"low": _plain(low), "high": _plain(high)}
        self.waiting.append({"step": step, "histogram": tag} | limits | {"counts": list(counts)})

    def text(self, tag: str, markdown: str) -> None:
        """One row with a card of TensorBoard's text tab."""
        self.waiting.append({"text": tag, "markdown": markdown})

    def curve(self, tag: str, values: Sequence[float]) -> None:
        """One row with a curve over the whole training, a picture in TensorBoard."""
        self.waiting.append({"curve": tag, "values": [_plain(v) for v in values]})

    def end(self, step: int) -> None:
        """One row that says that the training is over; the last pictures are drawn then."""
        self.waiting.append({"end": step})

    def flush(self) -> None:
        """Write the rows that wait, whole lines only."""
        lines = [ENCODE(row) + "\n" for row in self.waiting]
        with atomic.naming(self.path):
            self.file.write("".join(lines).encode())
            self.file.flush()
        self.events.write(self.waiting)
        self.waiting, self.written = [], time.monotonic()

    def sync(self) -> int:
        """Bring every row to the disk; returns the length of metrics.jsonl in bytes."""
        self.flush()
        with atomic.naming(self.path):
            atomic.fsync(self.file.fileno())
        return self.file.tell()

    def close(self) -> None:
        """Write what waits and close; whoever needs it on the disk calls `sync` before."""
        with contextlib.closing(self.events), atomic.naming(self.path), self.file:
            self.flush()


def _plain(value: float) -> float | str:
    value = float(value)
    return value if math.isfinite(value) else str(value)
