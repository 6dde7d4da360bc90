"""metrics.jsonl is the truth; the events say the same, and nothing is doubled after a resume."""

import json
import math
import os
import re
import struct
import subprocess
import sys

import numpy as np
import pytest

from trainlab.errors import CheckpointError, MachineError
from trainlab.observe import event_file
from trainlab.observe import metrics_log as logs
from trainlab.observe.charts import Charts
from trainlab.observe.metrics_log import Log, rows
from trainlab.storage import atomic


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


def layout(directory):
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

    *_, accumulator = seen(directory)
    (written,) = accumulator.Tensors("custom_scalars__config__")
    return Layout.FromString(written.tensor_proto.string_val[0])


def test_the_layout_matches_every_tag_once(tmp_path):
    with Log(tmp_path, charts=Charts()) as log:
        look(log, 1)
        log.scalars(1, dict.fromkeys(("train/loss", "val/loss", "val/accuracy", "optim/lr"), 1.0))
    found = layout(tmp_path)
    assert [(c.title, c.closed) for c in found.category] == [
        ("Health", False), ("Activations", True), ("Gradients", True), ("Updates", True),
        ("Mean +- std", True),
    ]  # fmt: skip
    patterns = [tuple(c.multiline.tag) for group in found.category for c in group.chart]
    derived = ("activation_lower/", "activation_upper/", "update_ratio/")  # in margins; as log10
    for tag in {tag for tag, _, _ in seen(tmp_path)[0] if not tag.startswith(derived)}:
        hits = [p for p in patterns if any(re.match(each, tag) for each in p)]
        assert len(hits) == 1, tag
    *_, margins = found.category
    series = [chart.margin.series[0] for chart in margins.chart]
    assert [chart.title for chart in margins.chart] == ["01.relu", "02.logits"]
    for kind in ("mean", "lower", "upper"):
        field = "value" if kind == "mean" else kind
        tags = [getattr(each, field) for each in series]
        assert tags == [f"activation_{kind}/{layer}" for layer in ("01.relu", "02.logits")]


def test_without_probes_there_is_one_panel_and_nothing_is_added(tmp_path):
    with Log(tmp_path) as log:
        write(log, [0, 1])
    assert [c.title for c in layout(tmp_path).category] == ["Health"]
    same(tmp_path)


def look(log, step, scale=1.0):
    """The rows of one look: two activations, two weights."""
    log.scalars(step, {
        "activation_mean/01.relu": 2.0 * scale, "activation_std/01.relu": 0.5 * scale,
        "activation_mean/02.logits": 0.0, "activation_std/02.logits": math.inf,
        "gradient_norm/01.relu": 0.1 * scale, "gradient_norm/02.logits": 0.3,
        "weight_gradient_norm/01.w": 0.0, "weight_gradient_norm/02.b": 3e-8,
        "update_ratio/01.w": 1e-3 * scale, "update_ratio/03.w": 0.0,
    })  # fmt: skip
    for layer in ("01.relu", "02.logits"):
        log.histogram(step, f"activation/{layer}", [0] * 60 + [step, 9, 1, 0], -1.0, scale)


def test_derived_scalars_stand_in_the_events_only(tmp_path):
    with Log(tmp_path, charts=Charts()) as log:
        look(log, 4)
    values = {tag: value for tag, step, value in seen(tmp_path)[0] if step == 4}
    assert values["activation_lower/01.relu"] == 1.5 and values["activation_upper/01.relu"] == 2.5
    assert "activation_lower/02.logits" not in values  # not finite
    assert values["update_ratio_log10/01.w"] == -3 and "update_ratio_log10/03.w" not in values
    bands = {tag: value for tag, value in values.items() if tag.startswith("band/")}
    assert bands == {"band/1e-04": -4, "band/1e-03": -3, "band/1e-01": -1}
    written = (tmp_path / "metrics.jsonl").read_text()
    assert not any(word in written for word in ("lower", "log10", "band", "depth"))


def images(directory):
    """{tag: [(step, PNG)]} as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(directory), {"images": 0})
    accumulator.Reload()
    found = {}
    for tag in accumulator.Tags()["images"]:
        found[tag] = [(e.step, e.encoded_image_string) for e in accumulator.Images(tag)]
    return found


PICTURES = ["colourful/activation", "depth/activation_std", "depth/gradient_flow",
            "depth/gradient_norm", "depth/update_ratio"]  # fmt: skip


def test_pictures_come_at_the_end_and_rarely_before_it(tmp_path):
    with Log(tmp_path, charts=Charts()) as log:
        for step in range(1, 141):
            look(log, step, 1 + step / 100)
        log.end(140)
    found = images(tmp_path)
    assert sorted(found) == PICTURES
    for tag, made in found.items():  # of 32 and of 128 looks, when the next one begins
        assert [step for step, _ in made] == [33, 129, 140], tag
        assert all(picture[1:4] == b"PNG" for _, picture in made)


def test_a_resume_has_the_pictures_of_an_undisturbed_run(tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for directory in (whole, cut):
        directory.mkdir()
    with Log(whole, charts=Charts()) as log:
        for step in range(1, 41):
            look(log, step)
        log.end(40)
    with Log(cut, charts=Charts()) as log:
        for step in range(1, 36):
            look(log, step)
            if step == 20:
                keep = log.sync()
        log.end(35)
    monkeypatch.setattr(logs, "WAIT", 0.0)  # other rows are written together
    with Log(cut, keep=keep, charts=Charts()) as log:
        for step in range(21, 41):
            look(log, step)
        log.end(40)
    assert images(cut) == images(whole) != {}
    assert sorted(seen(cut)[0]) == sorted(seen(whole)[0])
    assert layout(cut) == layout(whole)


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
    monkeypatch.setattr(atomic, "fsync", lambda number: synced.append(os.fstat(number).st_size))
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
        assert event_file._checksum(data) == struct.pack("<I", masked_crc32c(data)), size


def test_tensorboard_is_imported_at_the_first_row_and_tensorflow_never(tmp_path):
    code = f"""
import sys
from trainlab.observe.metrics_log import Log
log = Log({str(tmp_path)!r}, keep=0)
assert not any(name.startswith("tensorboard") for name in sys.modules)
assert "torch" not in sys.modules
log.scalars(1, {{"a/b": 1.0}}); log.close()
assert "tensorflow" not in sys.modules and "torch" not in sys.modules
assert not {{"trainlab.observe.charts", "trainlab.observe.plots", "PIL"}} & set(sys.modules)
assert not any(name.startswith("tensorboard.backend") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.parametrize("n", [1, 15, 16, 64, 2047])
def test_histograms_packed_at_once_are_those_packed_number_by_number(n):
    from tensorboard.compat.proto.summary_pb2 import HistogramProto

    from trainlab.observe.event_file import _values

    counts, low, high = list(range(n)), -1.5, 2.25
    row = {"step": 1, "histogram": "weight/01", "low": low, "high": high, "counts": counts}
    limits = [low + (high - low) / n * edge for edge in range(1, n + 1)]
    (value,) = _values(row)
    expected = HistogramProto(
        min=low, max=high, num=sum(counts), bucket_limit=limits, bucket=counts
    )
    assert (value.tag, value.histo) == ("weight/01", expected)
