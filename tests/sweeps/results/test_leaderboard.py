"""The table while a sweep goes on, leaderboard.csv, HParams, the mean curves."""

import csv
import io
import json
import random
import subprocess
import sys
import threading
import time

import ledgers
import numpy as np
import pytest
import torch
from ledgers import result

from trainlab.__main__ import main
from trainlab.observe import hparams, metrics_log
from trainlab.sweeps.execute import ledger
from trainlab.sweeps.results import leaderboard

KEYS = ["activation", "optim.lr", "seed"]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A real one of 12 runs as two stacks."""
    where = tmp_path_factory.mktemp("sweep") / "s"
    words = ["activation=relu,elu", "optim.lr=0.1,0.01", "repeats=3", "quiet=true", "max_steps=40",
             "evaluate.every=20", "preflight=none", "probe=none", "stack.size=6",
             "sweep.nuisance=[optim.lr]"]  # fmt: skip
    assert main(["-m", *words, f"hydra.sweep.dir={where}"]) == 0
    return where


@pytest.fixture(scope="module")
def closed(sweep):
    (sweep / "mean-3").mkdir()  # of an earlier comparison, without the nuisance key
    leaderboard.close(sweep, quiet=True)  # again, as when it is taken up: nothing is doubled
    return sweep


def table(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_the_csv_has_every_run_by_the_mean_over_its_seeds(closed):
    told = table(closed / "leaderboard.csv")
    assert sorted(int(row["number"]) for row in told) == list(range(12))
    ranks = [int(row["rank"]) for row in told]
    assert ranks == sorted(ranks) == [1 + i // 3 for i in range(12)]
    means = [np.mean([float(r["val_loss"]) for r in told if r["rank"] == str(k)])
             for k in (1, 2, 3, 4)]  # fmt: skip
    assert means == sorted(means)
    for row in told:
        seen = json.loads((closed / row["folder"] / "summary.json").read_text())["results"]
        assert float(row["val_accuracy"]) == seen["val"]["accuracy"]
        assert f"activation={row['activation']}" in row["folder"]
        assert f"seed={row['seed']}" in row["folder"]


def test_the_test_split_is_in_the_rows_of_the_winner_only(closed):
    told = [row for row in table(closed / "leaderboard.csv") if row["test_loss"]]
    assert len(told) == 3
    assert len({row["activation"] for row in told}) == 1
    assert sorted(row["seed"] for row in told) == ["0", "1", "2"]


def test_a_failed_run_has_no_rank_and_its_reason(tmp_path):
    reason = "loss = nan at step 2 of 40, with lr 9: it must stay finite"
    found = [
        result(0, {"optim.lr": 9.0}, reason=reason) | {"steps": 2},
        result(1, {"optim.lr": 0.1}, 0.5),
    ]
    first, second = leaderboard.rows(found)
    assert (first["number"], first["rank"], first["reason"]) == (1, 1, "")
    assert (second["number"], second["rank"], second["reason"]) == (0, "", reason)
    assert (first["steps"], second["steps"]) == (100, 2)
    leaderboard.write_csv(tmp_path / "leaderboard.csv", leaderboard.rows(found))
    assert [row["state"] for row in table(tmp_path / "leaderboard.csv")] == ["finished", "diverged"]
    assert leaderboard.rows([]) == []


def test_a_lucky_seed_wins_nothing():
    values = [(0, 0.1), (0, 9.0), (1, 1.0), (1, 1.1)]
    found = [result(i, {"optim.lr": float(lr), "seed": i % 2}, loss)
             for i, (lr, loss) in enumerate(values)]  # fmt: skip
    assert [row["number"] for row in leaderboard.rows(found)] == [2, 3, 0, 1]


def test_closing_says_what_differs(sweep, capsys):
    leaderboard.close(sweep, quiet=False)
    out = capsys.readouterr().out
    assert "best of 2: " in out
    assert "of this one only, test loss" in out
    assert "relu and elu: " in out or "elu and relu: " in out
    assert "is better than" in out or "within noise" in out
    assert "(3 of 3 seeds)" in out
    assert out.rstrip().endswith(f"curves  tensorboard --logdir {sweep}")


def test_mean_curves_are_those_of_what_is_compared(closed):
    found = leaderboard.settings(ledger.results(closed), ["optim.lr"])
    for number, setting in enumerate(found):
        rows = [
            r for r in metrics_log.rows(closed / f"mean-{number}" / "metrics.jsonl") if "step" in r
        ]
        assert len({row["step"] for row in rows}) == len(rows)  # written anew
        told = {row["step"]: row for row in rows}
        folders = [closed / run["folder"] for run in setting.runs.values()]
        own = [r["val/loss"] for f in folders for r in metrics_log.rows(f / "metrics.jsonl")
               if r.get("step") == 20 and "val/loss" in r]  # fmt: skip
        assert len(own) == 3
        assert told[20]["val/loss"] == pytest.approx(np.mean(own))
        assert told[20]["val/loss_upper"] == pytest.approx(np.mean(own) + np.std(own, ddof=1))
    assert len(list(closed.glob("mean-*"))) == 2


def cards(folder):
    """HParams cards of the only event file of a folder, each there once; its scalars."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    (path,) = folder.glob("events.out.tfevents.*")
    found, scalars = {}, {}
    for event in LegacyEventFileLoader(str(path)).Load():
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "hparams":
                assert value.tag not in found
                found[value.tag] = HParamsPluginData.FromString(value.metadata.plugin_data.content)
            elif value.HasField("simple_value"):
                scalars[value.tag] = value.simple_value
    return found, scalars


def test_hparams_are_in_the_event_files_of_the_runs(closed):
    for entry in ledger.results(closed):
        found, scalars = cards(closed / entry["folder"])
        start = found["_hparams_/session_start_info"].session_start_info
        assert start.hparams["activation"].string_value == entry["values"]["activation"]
        assert start.hparams["optim.lr"].number_value == entry["values"]["optim.lr"]
        assert found["_hparams_/session_end_info"].session_end_info.status == 1
        assert scalars["best/val_loss"] == pytest.approx(entry["results"]["val"]["loss"])
        assert "_hparams_/experiment" not in found
    found, _ = cards(closed)
    card = found["_hparams_/experiment"].experiment
    assert {info.name for info in card.hparam_infos} == set(KEYS)
    metrics = [info.name.tag for info in card.metric_infos]
    assert metrics[:2] == ["best/val_loss", "best/val_accuracy"]
    assert not any("test" in tag for tag in metrics)


def test_only_the_own_card_of_a_sweep_is_written_anew(tmp_path):
    other = tmp_path / "events.out.tfevents.0.of-a-run"
    other.write_bytes(b"scalars")
    for _ in range(2):
        hparams.write(tmp_path, [])
        assert len(list(tmp_path.glob("events*"))) == 2 and other.read_bytes() == b"scalars"


def running(directory, found, jobs, out, monkeypatch, pause=0.15):
    """Results that arrive one by one while `live` watches; what it printed to `out`."""
    monkeypatch.setattr(leaderboard, "POLL", 0.02)
    monkeypatch.setattr(sys, "stdout", out)
    with leaderboard.live(directory, jobs, quiet=False):
        for entry in found:
            (directory / entry["folder"]).mkdir()
            time.sleep(pause / 2)
            ledgers.keep(directory, [entry])
            time.sleep(pause / 2)
    return out.getvalue()


FOUND = [result(0, {"optim.lr": 0.1}, 0.5), result(1, {"optim.lr": 9.0}, reason="loss = nan"),
         result(2, {"optim.lr": 0.01}, 0.25)]  # fmt: skip


def test_a_line_for_each_job_that_ends(tmp_path, monkeypatch):
    start, *lines = running(tmp_path, FOUND, 4, io.StringIO(), monkeypatch).splitlines()
    assert start == "0 of 4 jobs ended, 0 running, 0 failed; 0 s so far"  # at once
    assert lines[0] == "[1/4] 0000_optim.lr=0.1 finished  val/loss 0.5000  1.5 s"
    assert lines[1].startswith("1 of 4 jobs ended, 0 running, 0 failed; 0 s so far, about ")
    assert lines[2] == "[2/4] 0001_optim.lr=9.0 diverged  loss = nan  1.5 s"
    assert lines[3:] == ["[3/4] 0002_optim.lr=0.01 finished  val/loss 0.2500  1.5 s"]


def test_what_an_earlier_start_left_is_counted_and_not_told_again(tmp_path, monkeypatch):
    ledgers.keep(tmp_path, FOUND[:1])
    start, *lines = running(tmp_path, FOUND[1:], 3, io.StringIO(), monkeypatch).splitlines()
    assert start.startswith("1 of 3 jobs ended, 0 running")
    assert lines[0].startswith("[2/3] 0001")
    assert lines[1].startswith("2 of 3 jobs ended")
    assert "for the rest" in lines[1]  # at the pace of this start


def test_the_rest_is_told_when_a_stack_has_ended(tmp_path):
    watcher = leaderboard.Watcher(tmp_path, 4, out := io.StringIO())
    for entry in FOUND:  # one stack
        (tmp_path / entry["folder"]).mkdir()
        ledgers.keep(tmp_path, [entry])
        watcher.update()
    assert "for the rest" not in out.getvalue()
    watcher.update()
    watcher.update()
    assert out.getvalue().count("3 of 4 jobs ended, 0 running, 1 failed; ") == 1
    assert out.getvalue().count("for the rest") == 1


def test_jobs_that_began_and_have_no_result_are_under_way(tmp_path):
    ledger.write_jobs(tmp_path, {"a": 0, "b": 1, "c": 2})
    for name in ("a", "b", "0007_of_somebody_else"):
        (tmp_path / name).mkdir()
    told = leaderboard.Watcher(tmp_path, 3, io.StringIO()).progress()
    assert told.startswith("0 of 3 jobs ended, 2 running, 0 failed")


def test_a_table_on_a_terminal(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    out = running(tmp_path, FOUND, None, Terminal(), monkeypatch)
    assert "rank" in out
    assert "0.2500" in out
    assert "3 of ? jobs ended, 0 running, 1 failed" in out
    assert "test" not in out


def test_a_result_that_is_half_written_is_read_later(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "x.json").write_text('{"state": ')
    out = running(tmp_path, FOUND[:1], 1, io.StringIO(), monkeypatch)
    assert out.splitlines()[1].startswith("[1/1] 0000")


def test_watching_draws_no_random_number(tmp_path, monkeypatch):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert running(tmp_path, FOUND, 3, io.StringIO(), monkeypatch)
    leaderboard.table(FOUND)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert not any(thread.name == "leaderboard" for thread in threading.enumerate())


def test_a_task_that_trains_nothing_has_no_figures(tmp_path, monkeypatch, capsys):
    found = [result(i, {"seed": i}) | {"state": "finished", "reason": "", "seconds": None,
             "monitor": {"name": "val/loss", "value": None}} for i in range(2)]  # fmt: skip
    assert "[1/2] 0000_seed=0 finished  " in running(tmp_path, found, 2, io.StringIO(), monkeypatch)
    monkeypatch.undo()
    leaderboard.close(tmp_path, quiet=False)
    out = capsys.readouterr().out
    assert "2 finished" in out
    assert "no run finished" not in out
    assert "tensorboard" not in out  # no run has curves


def test_what_was_only_checked_has_its_verdicts(tmp_path, capsys):
    words = ["fault=none,init_zero", "task=check", f"hydra.sweep.dir={tmp_path}/s"]
    assert main(["-m", *words]) == 0
    out = capsys.readouterr().out
    first, second = table(tmp_path / "s" / "leaderboard.csv")
    assert first["reason"] == "no FAIL, no WARN"
    assert "2 FAIL (overfit, symmetry)" in second["reason"]
    assert "verdicts" in out
    assert out.count("2 FAIL") == 2  # as it ends, and in the table
    assert "tensorboard" not in out


def test_brackets_are_shown_as_they_are(tmp_path, monkeypatch, capsys):
    found = [result(i, {"augment": ["flip"], "seed": i}, 1.0 + i) for i in range(2)]
    lines = running(tmp_path, found, 2, io.StringIO(), monkeypatch)
    monkeypatch.undo()
    assert "augment=['flip']" in lines
    for entry in found:
        (tmp_path / entry["folder"] / "metrics.jsonl").write_text("")
    ledgers.keep(tmp_path, found, nuisance=["optim.lr"])
    leaderboard.close(tmp_path, quiet=False)
    assert capsys.readouterr().out.count("[flip]") == 3  # in both tables and the best's line


def test_quiet_watches_nothing(tmp_path, capsys):
    with leaderboard.live(tmp_path, 3, quiet=True):
        assert not any(thread.name == "leaderboard" for thread in threading.enumerate())
    leaderboard.close(tmp_path, quiet=False)  # nothing ended: nothing to say
    assert capsys.readouterr().out == ""


def test_an_exit_inside_is_not_held_up(tmp_path):
    code = (
        "import sys, pathlib\nfrom trainlab.sweeps.results import leaderboard\n"
        f"with leaderboard.live(pathlib.Path({str(tmp_path)!r}), 3, False): sys.exit(7)"
    )
    begun = time.monotonic()
    assert subprocess.run([sys.executable, "-c", code], timeout=20).returncode == 7
    assert time.monotonic() - begun < 10
