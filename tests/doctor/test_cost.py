"""What watching costs: timed without the steps, told with a cadence that would be cheaper."""

import contextlib
from types import SimpleNamespace

import pytest
from forked import finish

from trainlab.doctor import cost as costs
from trainlab.doctor.cost import Cost, cost_lines, probed_steps, slowed
from trainlab.training.trainer import due


@pytest.mark.parametrize("every", [1, 2, 3, 7, 64, 100, 1000])
@pytest.mark.parametrize("span", [(0, 1), (0, 500), (63, 64), (5, 129), (100, 1300), (0, 0)])
def test_looks_are_counted_as_the_trainer_takes_them(every, span):
    assert probed_steps(every, *span) == sum(due(step, every, early=True) for step in range(*span))


def test_the_step_and_the_events_are_not_counted(monkeypatch):
    clock = SimpleNamespace(at=0.0)
    monkeypatch.setattr(costs.time, "perf_counter", lambda: clock.at)
    events = SimpleNamespace(seconds=0.0)
    cost = Cost(events)

    @contextlib.contextmanager
    def probe(trainer, x, y):
        clock.at += 1
        yield
        clock.at += 6  # of which 4 are the events'
        events.seconds += 4

    for _ in range(2):
        with cost.probing(probe, None, None, None):
            clock.at += 100
    with cost.also():
        clock.at += 5
    assert (cost.probed, cost.inside, cost.beside, cost.steps) == (2, 6.0, 5.0, 200.0)


def spent(looked, inside, beside=0.0):
    return Cost(None, looked, inside, beside)


def test_a_cheap_watch_is_not_worth_a_word():
    assert cost_lines(spent(18, 0.019), 1.0, 100, 0, 1200) == []


def test_the_cadence_that_fits_is_named():
    # 100 looks of 0.6 s in 1000 s; about half as many at twice the distance
    every_100 = probed_steps(100, 0, 10_000)
    line = cost_lines(spent(every_100, 60.0), 1000.0, 100, 0, 10_000)
    fewer = 60 * probed_steps(400, 0, 10_000) / every_100
    share = f"{100 * fewer / (940 + fewer):.2g}"
    assert line == [f"probes took 6 % of this run; probe.every=400 would take {share} %"]
    assert float(share) <= 2 < 100 * 60 * probed_steps(200, 0, 10_000) / every_100 / 940


def test_steps_that_are_slower_for_being_looked_at_are_counted():
    # 20 looks of 0.1 s beside the steps; the steps took 3 s, the 980 others 0.1 s each
    cost = Cost(None, 20, 2.0, steps=3.0)
    assert slowed(cost, 103.0, 1000) == pytest.approx(1.0)
    assert cost_lines(cost, 103.0, 100, 0, 1000)[0].startswith("probes took 2.9 % of this run")
    assert slowed(Cost(None, 20, 2.0, steps=1.0), 103.0, 1000) == 0
    assert slowed(Cost(None, 5, 2.0, steps=1.0), 3.0, 5) == 1.0  # all of them were


def test_the_best_there_is_where_none_fits_and_none_where_nothing_helps():
    # 18 looks; 11 of every=400, and of 800 (2 and 9 early ones)
    line = "probes took 30 % of this run; probe.every=400 would take 21 %"
    assert cost_lines(spent(18, 0.3), 1.0, 100, 0, 1200) == [line]
    assert cost_lines(spent(18, 0.0, 0.3), 1.0, 100, 0, 1200) == ["probes took 30 % of this run"]
    assert cost_lines(spent(0, 0.0, 0.3), 1.0, 100, 50, 60) == ["probes took 30 % of this run"]
    assert cost_lines(spent(2, 0.3), 1.0, 1000, 0, 2) == ["probes took 30 % of this run"]


def test_a_run_tells_it_on_the_console_and_nowhere_else(tmp_path):
    words = ["preflight=none", "max_steps=60", "probe.every=1", f"hydra.run.dir={tmp_path}/run"]
    assert finish(words, tmp_path)[0] == 0
    assert "% of this run; probe.every=" in (tmp_path / "output.txt").read_text()
    assert "of this run" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    (tmp_path / "off").mkdir()
    words = ["preflight=none", "probe=none", "max_steps=60", f"hydra.run.dir={tmp_path}/off/run"]
    assert finish(words, tmp_path / "off")[0] == 0
    assert "of this run" not in (tmp_path / "off" / "output.txt").read_text()
