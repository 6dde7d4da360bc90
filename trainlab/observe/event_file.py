"""TensorBoard's event file, derived from the rows of metrics.jsonl and written only here."""

import math
import os
import re
import socket
import struct
import time
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import IO, Any, Protocol

from trainlab.storage import atomic

Row = dict[str, Any]  # of metrics.jsonl, see metrics_log.py
LEARNING_RATE = {"learning rate": "optim/lr$"}  # a panel that every run has


class Charts(Protocol):
    """What TensorBoard has beside the rows themselves; plain dicts, the fields of protocol
    buffers."""

    def feed(self, row: Row) -> Iterable[dict[str, Any]]:
        """The values that this row adds to its step."""

    def panels(self) -> Iterable[dict[str, Any]]:
        """Categories of custom scalars, asked for at the first row of a step above 0."""


class Events:
    """One TensorBoard event file, opened (and its formats imported) at the first row: the one that
    is there already at `path`, or a new one."""

    def __init__(self, directory: Path, charts: Charts | None = None, path: Path | None = None):
        self.directory, self.charts, self.path = directory, charts, path
        self.file: IO[bytes] | None = None
        self.at, self.seconds = 0, 0.0  # step of the latest row, what its events took so far
        self.planned = False  # whether the layout is written
        self.measures: dict[str, None] = {}  # loss, accuracy, ...: what has a panel

    def write(self, rows: Iterable[Row]) -> None:
        """The rows of one step become one event; a text or curve belongs to the row before it."""
        for step, together in groupby(rows, self._step):
            if self.file is None:
                self._open()
            begun = time.monotonic()
            values = [value for row in together for value in self._values(row)]
            if step > 0 and not self.planned:  # now the metrics and the layers are known
                self._record(summary={"value": [_layout(self.charts, self.measures)]})
                self.planned = True
            self._record(step=step, summary={"value": values})
            self.seconds += time.monotonic() - begun
        if self.file is not None:
            with atomic.naming(self.path):
                self.file.flush()

    def _step(self, row: Row) -> int:
        self.at = row.get("step", self.at)
        return self.at

    def _values(self, row: Row) -> list[Any]:
        """The row, and what the charts make of it."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        if not self.planned:
            tags = [tag.partition("/") for tag in row]
            self.measures |= {name: None for split, _, name in tags if split in ("train", "val")}
        derived = self.charts.feed(row) if self.charts else ()
        return [*_values(row), *(Summary.Value(**value) for value in derived)]

    def _open(self) -> None:
        if self.path is not None:
            with atomic.naming(self.path):
                self.file = open(self.path, "ab")  # noqa: SIM115
            return
        name = f"{int(time.time()):010}.{socket.gethostname()}.{os.getpid()}"
        self.path = self.directory / f"events.out.tfevents.{name}"
        with atomic.naming(self.path):
            self.file = open(self.path, "xb")  # noqa: SIM115
        self._record(file_version="brain.Event:2")

    def _record(self, **event: Any) -> None:
        """TFRecord: length, its checksum, data, its checksum."""
        from tensorboard.compat.proto.event_pb2 import Event

        data = Event(wall_time=time.time(), **event).SerializeToString()
        length = struct.pack("<Q", len(data))
        with atomic.naming(self.path):
            self.file.write(length + _checksum(length) + data + _checksum(data))

    def close(self) -> None:
        if self.file is not None:
            with atomic.naming(self.path):
                self.file.close()


def _values(row: Row) -> list[Any]:
    """What one row is in a Summary; a histogram that is not finite is nothing."""
    from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary

    if "text" in row:
        return [_card(row["text"], "text", row["markdown"].encode())]
    if "curve" in row:
        from trainlab.observe.plots import curve

        picture = curve(row["curve"], [float(v) for v in row["values"]])
        return [Summary.Value(tag=row["curve"], image=picture)]
    if "end" in row:
        return []
    if "histogram" not in row:
        tags = [tag for tag in row if tag != "step"]
        return [Summary.Value(tag=tag, simple_value=float(row[tag])) for tag in tags]
    import numpy as np

    low, high, counts = float(row["low"]), float(row["high"]), row["counts"]
    if not math.isfinite(high - low):
        return []
    limits = low + (high - low) / len(counts) * np.arange(1, len(counts) + 1)
    # sum and sum_squares stay out: TensorBoard shows neither
    histo = HistogramProto.FromString(_doubles(6, limits) + _doubles(7, np.array(counts, "<f8")))
    histo.min, histo.max, histo.num = low, high, sum(counts)
    return [Summary.Value(tag=row["histogram"], histo=histo)]


def _doubles(field: int, values: Any) -> bytes:
    """Fewer than 2048 numbers as a field of a protocol buffer: a third of the time that its list
    takes number by number."""
    n = 8 * len(values)
    return bytes((field << 3 | 2, n & 127 | 128, n >> 7)) + values.tobytes()


def _card(tag: str, plugin: str, content: bytes) -> Any:
    """A value that is a string, shown by `plugin`."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary.Value(
        tag=tag,
        metadata={"plugin_data": {"plugin_name": plugin}},
        tensor={"dtype": "DT_STRING", "string_val": [content]},
    )


def _layout(charts: Any, measures: Iterable[str]) -> Any:
    """The panels of TensorBoard's custom scalars, the first one open. measures: loss, accuracy,
    ...; the smoothed loss stands in the panel of the loss."""
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

    names = [name for name in measures if not name.endswith("_smooth")]
    panels = {name: f"(train|val)/{re.escape(name)}(_smooth)?$" for name in names} | LEARNING_RATE
    health = [{"title": name, "multiline": {"tag": [tag]}} for name, tag in panels.items()]
    categories = [{"title": "Health", "chart": health}, *(charts.panels() if charts else ())]
    content = Layout(category=categories).SerializeToString()
    return _card("custom_scalars__config__", "custom_scalars", content)


def _checksum(data: bytes) -> bytes:
    """TFRecord's masked CRC-32C."""
    from google_crc32c import value

    crc = value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)
