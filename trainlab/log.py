"""metrics.jsonl (the truth) and TensorBoard events (derived from its rows): the only file with event files.

A row is one line of JSON, without a clock, so that it is bit-identical after a resume:
    {"step": 50, "train/loss": 0.31, "activation_std/01.relu": 0.82, ...}       scalars of one step
    {"step": 50, "histogram": "weight/01.w", "low": -1.0, "high": 1.0, "counts": [...]}
    {"text": "recipe", "markdown": "..."}
Figures that are not finite are the strings "nan", "inf" and "-inf".
"""

import contextlib
import json
import math
import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np

from trainlab import durable
from trainlab.errors import CheckpointError

Row = dict[str, Any]
BLOCK = 64  # bytes
BLOCK = 64  # bytes

# category -> chart -> a pattern of tags, matched from their beginning; every layer is one curve
PANELS = {
    "Health": {
        "loss": "(train|val)/loss$",
        "accuracy": "(train|val)/accuracy$",
        "learning rate": "optim/lr$",
        "dead share": "activation_dead/",
    },
    "Activations": {
        "mean": "activation_mean/",
        "std, all elements": "activation_std/",
        "std of a unit over the samples": "activation_unit_std/",
        "saturated share": "activation_saturated/",
        "zero share": "activation_zero/",
    },
    "Gradients": {
        "norm in activations": "gradient_norm/",
        "norm in weights": "weight_gradient_norm/",
    },
    "Updates": {
        "norm(update) / norm(weight)": "update_ratio/",
        "norm(weight)": "weight_norm/",
    },
}


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
                    raise CheckpointError(f"{path}: line {number} is not JSON ({error}); start a new run") from error


class Log:
    """Writes one run's rows; a context manager. Raises MachineError, naming the file, when a write fails.

    On resume, `keep` bytes of metrics.jsonl stay (None: every whole row) and the events are made anew from them, so
    that nothing is doubled. Raises CheckpointError when the file has fewer.
    """

    def __init__(self, directory: Path, keep: int | None = None):
        self.path = Path(directory) / "metrics.jsonl"
        self.events = Events(Path(directory))
        data = self.path.read_bytes() if self.path.exists() else b""
        if keep is None:
            keep = data.rfind(b"\n") + 1
        if len(data) < keep or data[:keep][-1:] not in (b"", b"\n"):
            raise CheckpointError(
                f"{self.path}: has {len(data)} bytes, the checkpoint was made with {keep} bytes of whole rows; "
                "the file was changed since, so start a new run"
            )
        try:
            self.file: IO[bytes] = open(self.path, "ab")
            self.file.truncate(keep)
        except OSError as error:
            raise durable.unwritable(self.path, error) from error
        durable.remove(sorted(Path(directory).glob("events.out.tfevents.*")))
        for row in rows(self.path):
            self.events.write(row)
        self.events.flush()

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One row, and one event, with every {tag: value}."""
        self._write({"step": step} | {tag: _plain(value) for tag, value in values.items()})
        self._flush()

    def histogram(self, step: int, tag: str, counts: Sequence[int], low: float, high: float) -> None:
        """`counts` over equal bins between `low` and `high`."""
        self._write({"step": step, "histogram": tag, "low": _plain(low), "high": _plain(high), "counts": list(counts)})

    def text(self, tag: str, markdown: str) -> None:
        """A card in TensorBoard's text tab."""
        self._write({"text": tag, "markdown": markdown})

    def _write(self, row: Row) -> None:
        try:
            self.file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
        except OSError as error:
            raise durable.unwritable(self.path, error) from error
        self.events.write(row)

    def _flush(self) -> None:
        try:
            self.file.flush()
        except OSError as error:
            raise durable.unwritable(self.path, error) from error

    def sync(self) -> int:
        """Bring metrics.jsonl to the disk; returns its length in bytes."""
        self._flush()
        self.events.flush()
        try:
            durable.fsync(self.file.fileno())
        except OSError as error:
            raise durable.unwritable(self.path, error) from error
        return self.file.tell()

    def close(self) -> None:
        """Close both files; whoever needs the rows on the disk calls `sync` before."""
        try:
            self._flush()
            self.events.flush()
        finally:
            close(self.file)
            self.events.close()


def close(file: IO[bytes] | None) -> None:
    """Close a file whose last flush may have failed: the failure is known by then."""
    if file is not None:
        with contextlib.suppress(OSError):
            file.close()


def _plain(value: float) -> float | str:
    value = float(value)
    return value if math.isfinite(value) else str(value)


class Events:
    """One TensorBoard event file, opened (and its formats imported) at the first row.

    What belongs to one step waits for the rest of it, and is one event: half of the cost of an event is its checksum.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.file: IO[bytes] | None = None
        self.step, self.values = 0, []

    def write(self, row: Row) -> None:
        """Take one row; the event of the step before is written when a new step begins."""
        if row.get("step", 0) != self.step:
            self.flush()
            self.step = row["step"]
        self.values += _values(row)

    def flush(self) -> None:
        """Write what waits."""
        if not self.values:
            return
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        try:
            if self.file is None:
                name = f"events.out.tfevents.{int(time.time()):010}.{socket.gethostname()}.{os.getpid()}"
                self.path = self.directory / name
                self.file = open(self.path, "xb")
                self._record(Event(wall_time=time.time(), file_version="brain.Event:2"))
                self._record(Event(wall_time=time.time(), summary=Summary(value=[_layout()])))
            self._record(Event(wall_time=time.time(), step=self.step, summary=Summary(value=self.values)))
            self.file.flush()
        except OSError as error:
            raise durable.unwritable(self.path, error) from error
        self.values = []

    def _record(self, event: Any) -> None:
        """TFRecord: length, its checksum, data, its checksum."""
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        self.file.write(length + _checksum(length) + data + _checksum(data))

    def close(self) -> None:
        close(self.file)


def _values(row: Row) -> list[Any]:
    """What one row is in a Summary; a histogram that is not finite is nothing."""
    from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary

    if "text" in row:
        return [_card(row["text"], "text", row["markdown"].encode())]
    if "histogram" not in row:
        return [Summary.Value(tag=tag, simple_value=float(v)) for tag, v in row.items() if tag != "step"]
    low, high, counts = float(row["low"]), float(row["high"]), row["counts"]
    if not math.isfinite(high - low):
        return []
    width = (high - low) / len(counts)
    limits = [low + width * edge for edge in range(1, len(counts) + 1)]
    # sum and sum_squares stay out: TensorBoard shows neither
    histo = HistogramProto(min=low, max=high, num=sum(counts), bucket_limit=limits, bucket=counts)
    return [Summary.Value(tag=row["histogram"], histo=histo)]


def _card(tag: str, plugin: str, content: bytes) -> Any:
    """A value that is a string, shown by `plugin`."""
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto

    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin))
    return Summary.Value(tag=tag, metadata=metadata, tensor=TensorProto(dtype="DT_STRING", string_val=[content]))


def _layout() -> Any:
    """PANELS for TensorBoard's custom scalars."""
    from tensorboard.plugins.custom_scalar import layout_pb2 as pb

    def chart(title: str, pattern: str) -> Any:
        return pb.Chart(title=title, multiline=pb.MultilineChartContent(tag=[pattern]))

    categories = [pb.Category(title=t, chart=[chart(*c) for c in charts.items()]) for t, charts in PANELS.items()]
    layout = pb.Layout(category=categories)
    return _card("custom_scalars__config__", "custom_scalars", layout.SerializeToString())


@cache
def _table() -> np.ndarray:
    """(BLOCK, 256) uint32: what a byte adds to the CRC-32C of a block, by its place in the block and its value."""
    one = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        one = np.where(one & 1, (one >> 1) ^ np.uint32(0x82F63B78), one >> 1)
    places = [one]  # the last place first; a byte at the place before it is shifted through once more
    for _ in range(BLOCK - 1):
        places.append(one[places[-1] & 0xFF] ^ (places[-1] >> 8))
    return np.stack(places[::-1])


@cache
def _carry() -> list[list[int]]:
    return _table()[:4].tolist()


def _checksum(data: bytes) -> bytes:
    """TFRecord's masked CRC-32C of at least 4 bytes; a loop over single bytes takes 10 times longer."""
    blocks = np.zeros(-(-len(data) // BLOCK) * BLOCK, dtype=np.uint8)  # zeros in front add nothing
    message = blocks[-len(data) :]
    message[:] = np.frombuffer(data, dtype=np.uint8)
    message[:4] ^= 0xFF  # the CRC starts with all bits set
    each = np.bitwise_xor.reduce(_table()[np.arange(BLOCK), blocks.reshape(-1, BLOCK)], axis=1)
    crc, (a, b, c, d) = 0, _carry()
    for block in each.tolist():
        crc = block ^ a[crc & 0xFF] ^ b[crc >> 8 & 0xFF] ^ c[crc >> 16 & 0xFF] ^ d[crc >> 24]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)
