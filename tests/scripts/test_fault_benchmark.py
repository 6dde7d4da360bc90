"""A fixed slice of scripts/fault_benchmark.py: every fault once, and healthy runs beside them. The
whole benchmark stands in docs/doctor.md."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
spec = importlib.util.spec_from_file_location("fault_benchmark", SCRIPTS / "fault_benchmark.py")
benchmark = importlib.util.module_from_spec(spec)
sys.modules["fault_benchmark"] = benchmark
spec.loader.exec_module(benchmark)
from fault_plan import LADDER  # noqa: E402 (the scripts' folder is on the path from here on)

# not found at this severity on this network: no harm is done either
BENIGN = {"fit_overfit", "fit_undertrained"}


@pytest.fixture(scope="module")
def rows():
    return [benchmark.run(spec, twice=False) for spec in benchmark.specs_of("slice", None)]


def alarms(row):
    return [f["id"] for f in row["findings"] if f["severity"] != "info"]


def test_every_fault_is_found_and_most_are_named_first(rows):
    faulty = [row for row in rows if row["kind"] == "fault"]
    assert len(faulty) == len(LADDER)
    assert {row["fault"] for row in faulty if not alarms(row)} <= BENIGN
    first = [row for row in faulty if alarms(row)[:1] and alarms(row)[0] in row["right"]]
    assert len(first) >= 0.8 * len(faulty)
    among = [row for row in faulty if set(alarms(row)[:3]) & set(row["right"])]
    assert len(among) >= 0.9 * len(faulty)


def test_state_invariants_are_found_before_the_training(rows):
    for row in rows:
        if row.get("invariant"):
            assert any(f["since_step"] == 0 for f in row["findings"]), row["fault"]


def test_healthy_runs_are_left_alone(rows):
    healthy = [row for row in rows if row["kind"] == "healthy"]
    assert len(healthy) >= 20
    assert not [(row["variant"], alarms(row)) for row in healthy if alarms(row)]


def test_the_page_reports_on_these_thresholds():
    """A changed threshold makes docs/doctor.md stale: run the benchmark again."""
    now = benchmark.thresholds()
    assert json.loads(benchmark.FROZEN.read_text()) == now
    assert now["sha256"] in (benchmark.FROZEN.parent / "doctor.md").read_text()
