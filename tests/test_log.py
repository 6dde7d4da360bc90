"""metrics.jsonl is the truth; the events say the same, and nothing is doubled after a resume."""

import json
import math
import os
import struct
import subprocess
import sys

import numpy as np
import pytest

from trainlab import durable
from trainlab import log as logs
from trainlab.errors import CheckpointError, MachineError
from trainlab.log import PANELS, Log, rows


def write(log, steps):
    for step in steps:
        log.scalars(step, {"train/loss": 1 / (step + 1), "activation_std/01.relu": 0.1 * step})
        log.histogram(step, "weight/01.w", [0] * 62 + [step, 2], -1.0, 3.0)
        log.scalars(step, {"val/loss": 2.0})


def seen(directory):
    """What TensorBoard reads: ({(tag, step): value}, {(tag, step): buckets}, accumulator)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(directory), {"scalars": 0, "histograms": 0, "tensors": 0})
    accumulator.Reload()
    tags = accumulator.Tags()
    scalars = [(t, e.step, e.value) for t in tags["scalars"] for e in accumulator.Scalars(t)]
    names = tags["histograms"]
    histos = [(t, e.step, e.histogram_value) for t in names for e in accumulator.Histograms(t)]
    return scalars, histos, accumulator


def truth(directory):
    found = list(rows(directory / "metrics.jsonl"))
    scalars = [
        (tag, row["step"], float(value))
        for row in found
        if "step" in row and "histogram" not in row
        for tag, value in row.items()
        if tag != "step"
    ]
    return scalars, [row for row in found if "histogram" in row]


def same(directory):
    scalars, histos, _ = seen(directory)
    rows_scalars, rows_histos = truth(directory)
    as_float32 = [(tag, step, float(np.float32(value))) for tag, step, value in rows_scalars]
    assert sorted(scalars) == sorted(as_float32)
    for (tag, step, histo), row in zip(histos, rows_histos, strict=True):
        assert (tag, step, list(histo.bucket)) == (row["histogram"], row["step"], row["counts"])
        assert (histo.min, histo.max, histo.num) == (row["low"], row["high"], sum(row["counts"]))
        assert histo.bucket_limit[-1] == row["high"]


def test_events_equal_the_rows(tmp_path):
    with Log(tmp_path) as log:
        log.text("recipe", "| a | b |")
        write(log, range(1, 40))
    same(tmp_path)
    assert len(list(rows(tmp_path / "metrics.jsonl"))) == 1 + 3 * 39
    *_, accumulator = seen(tmp_path)
    assert accumulator.Tensors("recipe")[0].tensor_proto.string_val == [b"| a | b |"]
    assert accumulator.SummaryMetadata("recipe").plugin_data.plugin_name == "text"


def test_a_step_is_one_event(tmp_path):
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader

    with Log(tmp_path) as log:
        write(log, [1, 2, 3])
    (path,) = tmp_path.glob("events*")
    assert len(list(RawEventFileLoader(str(path)).Load())) == 2 + 3  # version, layout, the steps


def test_the_rows_carry_no_clock_and_are_plain(tmp_path):
    with Log(tmp_path) as log:
        log.scalars(3, {"a/b": 0.1, "a/n": math.nan, "a/i": math.inf, "a/m": -math.inf})
        log.histogram(3, "h", [1, 2], math.nan, math.nan)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert lines[0] == '{"step": 3, "a/b": 0.1, "a/n": "nan", "a/i": "inf", "a/m": "-inf"}'
    assert json.loads(lines[1]) == {
        "step": 3, "histogram": "h", "low": "nan", "high": "nan", "counts": [1, 2],
    }  # fmt: skip
    scalars, histos, _ = seen(tmp_path)
    assert math.isnan({tag: v for tag, _, v in scalars}["a/n"]) and histos == []


def test_the_layout_has_four_panels_that_match_the_tags(tmp_path):
    import re

    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

    with Log(tmp_path) as log:
        log.scalars(1, {"train/loss": 1.0})
    *_, accumulator = seen(tmp_path)
    content = accumulator.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    layout = Layout.FromString(content)
    assert [c.title for c in layout.category] == ["Health", "Activations", "Gradients", "Updates"]
    patterns = [p for charts in PANELS.values() for p in charts.values()]
    quantities = ("dead", "mean", "std", "unit_std", "saturated", "zero")
    tags = ["train/loss", "val/loss", "train/accuracy", "val/accuracy", "optim/lr"]
    tags += [f"activation_{quantity}/01.relu" for quantity in quantities]
    tags += ["gradient_norm/01.relu", "weight_gradient_norm/01.w", "update_ratio/01.w"]
    for tag in [*tags, "weight_norm/01.w"]:  # each in one chart
        assert len([p for p in patterns if re.match(p, tag)]) == 1, tag


def test_a_resume_doubles_nothing(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for directory in (whole, cut):
        directory.mkdir()
    with Log(whole) as log:
        log.text("recipe", "x")
        write(log, range(1, 20))
    with Log(cut) as log:
        log.text("recipe", "x")
        write(log, range(1, 10))
        keep = log.sync()
        assert keep == (cut / "metrics.jsonl").stat().st_size
        write(log, range(10, 15))  # after the checkpoint: to be forgotten
    with open(cut / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 99, "train/l')
    with Log(cut, keep=keep) as log:
        write(log, range(10, 20))
    assert (cut / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert len(list(cut.glob("events*"))) == 1
    same(cut)
    assert seen(cut)[0] == seen(whole)[0]


def test_a_sync_brings_every_row_to_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(durable, "fsync", lambda number: synced.append(os.fstat(number).st_size))
    with Log(tmp_path) as log:
        log.histogram(1, "weight/01.w", [1], 0.0, 1.0)
        assert [log.sync()] == synced != [0]


def test_rows_wait_for_each_other_but_not_long(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    with Log(tmp_path) as log:
        log.scalars(1, {"a/b": 1.0})
        assert list(rows(path)) == []
        monkeypatch.setattr(logs, "WAIT", 0.0)
        log.scalars(2, {"a/b": 2.0})
        assert [row["step"] for row in rows(path)] == [1, 2]
        assert seen(tmp_path)[0] == [("a/b", 1, 1.0), ("a/b", 2, 2.0)]
    assert [row["step"] for row in rows(path)] == [1, 2]
    same(tmp_path)


def test_a_start_from_nothing_keeps_nothing(tmp_path):
    with Log(tmp_path) as log:
        write(log, [1, 2])
    with Log(tmp_path, keep=0):
        pass
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"" and not list(tmp_path.glob("events*"))


def test_without_a_length_every_whole_row_stays(tmp_path):
    with Log(tmp_path) as log:
        write(log, [1, 2])
    path = tmp_path / "metrics.jsonl"
    with open(path, "ab") as file:
        file.write(b'{"step": 3, "tra')
    assert len(list(rows(path))) == 6  # the torn line is skipped
    with Log(tmp_path) as log:
        write(log, [3])
    assert [row["step"] for row in rows(path)] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    same(tmp_path)


def test_a_changed_file_is_refused(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with Log(tmp_path) as log:
        write(log, [1])
        keep = log.sync()
    before = path.read_bytes()
    for wrong in (keep + 1, keep - 1):  # shorter than the checkpoint says; cut inside a row
        with pytest.raises(CheckpointError, match="metrics.jsonl: has"):
            Log(tmp_path, keep=wrong)
        assert path.read_bytes() == before
    path.write_bytes(b"not json\n" + before)
    with pytest.raises(CheckpointError, match="line 1 is not JSON"):
        list(rows(path))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["metrics.jsonl", "events"])
def test_a_full_disk_names_the_file(tmp_path, name):
    log = Log(tmp_path)
    write(log, [1])
    log.sync()
    broken = open("/dev/full", "wb")  # noqa: SIM115
    if name == "events":
        log.events.file.close()
        log.events.file = broken
    else:
        log.file.close()
        log.file = broken
    with pytest.raises(MachineError, match=rf"{name}.*ENOSPC"), log:
        write(log, [2, 3])
    assert broken.closed


def test_a_folder_that_is_not_there_is_a_machine_error(tmp_path):
    with pytest.raises(MachineError, match="metrics.jsonl"):
        Log(tmp_path / "missing")


def test_checksums_equal_tensorboards():
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    for size in (4, 8, 63, 64, 65, 128, 1000, 5000):
        data = os.urandom(size)
        assert logs._checksum(data) == struct.pack("<I", masked_crc32c(data)), size


def test_tensorboard_is_imported_at_the_first_row_and_tensorflow_never(tmp_path):
    code = f"""
import sys
from trainlab.log import Log
log = Log({str(tmp_path)!r}, keep=0)
assert not any(name.startswith("tensorboard") for name in sys.modules)
assert "torch" not in sys.modules
log.scalars(1, {{"a/b": 1.0}}); log.close()
assert "tensorflow" not in sys.modules and "torch" not in sys.modules
assert not any(name.startswith("tensorboard.backend") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
