"""Metrics against scikit-learn, over parts of a batch and over runs, and as a word of one's own."""

import csv
import json

import numpy as np
import pytest
import torch
from sklearn import metrics as reference
from torch.nn.functional import one_hot

from trainlab.__main__ import main, run
from trainlab.config import words
from trainlab.config.build import Door
from trainlab.errors import ConfigError
from trainlab.training import metrics
from trainlab.training.metrics import Facts

WORDS = words.groups()["metric"]


def metric(word):
    node = {k.rpartition(".")[2]: v for k, v in words.file_values("metric", word).items()}
    return Door()(node, name=word)


def guesses(n=200, classes=7, runs=(), seed=0):
    """Outputs (runs, n, K) and labels (runs, n); class 5 never occurs, class 6 is never called."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, classes - 1, (*runs, n), generator=generator)
    y[y == 5] = 6
    outputs = torch.randn(*runs, n, classes, generator=generator) + 1.5 * one_hot(y, classes)
    outputs[..., 6] -= 100
    return outputs, y


THEIRS = {
    "accuracy": lambda outputs, y: reference.accuracy_score(y, outputs.argmax(1)),
    "top5": lambda outputs, y: reference.top_k_accuracy_score(y, outputs, k=5, labels=range(7)),
    "macro_f1": lambda outputs, y: reference.f1_score(y, outputs.argmax(1), average="macro"),
    "balanced_accuracy": lambda outputs, y: reference.balanced_accuracy_score(y, outputs.argmax(1)),
    "confusion": lambda outputs, y: reference.confusion_matrix(
        y, outputs.argmax(1), labels=range(7)
    ),
}


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("word", WORDS)
def test_the_figure_is_scikit_learns(word):
    outputs, y = guesses()
    own = metric(word)
    figure = own.figure(own.state(outputs, y).double(), len(y))
    assert figure.numpy() == pytest.approx(np.asarray(THEIRS[word](outputs, y)))


@pytest.mark.parametrize("word", WORDS)
def test_counts_add_up_over_batches(word):
    outputs, y = guesses()
    own = metric(word)
    parts = zip(outputs.split(64), y.split(64), strict=True)
    assert torch.equal(sum(own.state(*part) for part in parts), own.state(outputs, y))


@pytest.mark.parametrize("word", WORDS)
def test_runs_of_a_stack_have_their_own_figures(word):
    outputs, y = guesses(runs=(3,))
    own = metric(word)
    together = own.figure(own.state(outputs, y).double(), 200)
    alone = [own.figure(own.state(o, t).double(), 200) for o, t in zip(outputs, y, strict=True)]
    assert torch.equal(together, torch.stack(alone))


def test_shares_of_classes_count_as_their_largest():
    outputs, y = guesses()
    soft = 0.7 * one_hot(y, 7) + 0.3 / 7
    assert torch.equal(metrics.n_correct(outputs, soft), metrics.n_correct(outputs, y))


def test_fewer_than_five_classes_are_all_among_the_top():
    outputs, y = guesses(classes=7)
    assert int(metrics.n_among_top(outputs[:, :4], y.clamp(max=3))) == len(y)


def test_facts_turn_a_figure_into_a_cost_and_a_text():
    up, down = Facts("accuracy", "up"), Facts("latency", "down", " ms", 1)
    assert (up.cost(0.9), down.cost(0.9)) == (-0.9, 0.9)
    assert (up.text(0.98765), down.text(12.345)) == ("0.9877", "12.3 ms")


def test_a_run_has_the_monitored_metric_everywhere(tmp_path):
    where = tmp_path / "run"
    words = ["monitor=val/macro_f1", "data.imbalance=0.1", "max_steps=60", "preflight=none"]
    summary = run(*words, "quiet=true", f"hydra.run.dir={where}")
    assert summary["metrics"]["macro_f1"]["direction"] == "up"
    assert list(summary["metrics"]) == ["loss", "accuracy", "macro_f1"]
    rows = [json.loads(line) for line in (where / "metrics.jsonl").read_text().splitlines()]
    by_step = {row["step"]: row["val/macro_f1"] for row in rows if "val/macro_f1" in row}
    assert max(by_step, key=by_step.get) == summary["best_step"]
    assert any("train/macro_f1" in row for row in rows)
    assert summary["results"]["val"]["macro_f1"] == pytest.approx(max(by_step.values()))


def test_a_metric_without_direction_is_in_the_summary_and_in_no_row(tmp_path):
    where = tmp_path / "run"
    words = ["metric=[accuracy,confusion]", "max_steps=20", "preflight=none", "quiet=true"]
    table = run(*words, f"hydra.run.dir={where}")["results"]["test"]["confusion"]
    assert sum(map(sum, table)) == 360
    rows = [json.loads(line) for line in (where / "metrics.jsonl").read_text().splitlines()]
    assert not any("confusion" in tag for row in rows if "step" in row for tag in row)


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["monitor=val/confusion"], "confusion has no direction.*use monitor=val/accuracy"),
        (["monitor=val/macrof1"], "no such metric; use monitor=val/macro_f1"),
        (["monitor=val/top5", "metric=[accuracy]"], r"add metric=\[accuracy,top5\]"),
        (["monitor=accuracy"], "must be val/loss, or val/ and a word of metric"),
        (["metric.accuracy.direction=best"], "must be null or one of up, down"),
    ],
)
def test_what_cannot_be_ranked_is_refused(typed, line):
    with pytest.raises(ConfigError, match=line):
        run(*typed)


OWN = """
from trainlab.training.metrics import Facts, Metric, n_correct


def percent_wrong(**facts):
    return Metric(Facts(**facts), n_correct, lambda right, n: 100 * (1 - right / n))
"""
WORD = """# @package metric.percent_wrong
_target_: mine.percent_wrong
direction: down
unit: " %"
digits: 1
"""


@pytest.fixture
def own_metric(tmp_path, monkeypatch):
    """A metric of one's own: one function, one YAML. Less is better."""
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "conf" / "metric").mkdir(parents=True)
    (tmp_path / "conf" / "metric" / "percent_wrong.yaml").write_text(WORD)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return ["--config-dir", "conf", "trust=[mine]"]


@pytest.mark.parametrize("name", ["percent_wrong", "macro_f1", "accuracy"])
def test_a_sweep_is_judged_by_its_metric(own_metric, capsys, name):
    """The best is the best everywhere: table, leaderboard, edge, compare."""
    sweep = ["-m", "optim.lr=0.1,0.01,0.001", "seed=0,1", f"monitor=val/{name}", "max_steps=60"]
    quick = ["data.imbalance=0.2", "preflight=none", "probe=none", "hydra.sweep.dir=sweep"]
    assert main([*own_metric, *sweep, *quick]) == 0
    out = capsys.readouterr().out
    with open("sweep/leaderboard.csv") as file:
        rows = list(csv.DictReader(file))
    lower_is_better = name == "percent_wrong"
    best = (min if lower_is_better else max)(rows, key=lambda row: float(row[f"val_{name}"]))
    assert best["rank"] == "1"
    assert best["optim.lr"] == "0.1"  # with so few steps the largest lr learns most
    assert "best of 3: 0.1" in out
    assert "best optim.lr 0.1 is the largest tried: try higher" in out
    lines = [line.split()[0] for line in out.splitlines() if line.startswith((" 0.1 ", " 0.01 "))]
    assert lines == ["0.1", "0.01"]  # the table, best first
    means = {lr: [float(r[f"val_{name}"]) for r in rows if r["optim.lr"] == lr]
             for lr in ("0.1", "0.001")}  # fmt: skip
    better, worse = (sum(means[lr]) / 2 for lr in ("0.1", "0.001"))
    assert (better < worse) == lower_is_better
    assert main(["compare", "sweep"]) == 0
    table = capsys.readouterr().out
    shown = [line for line in table.splitlines() if line.startswith((" 0000 ", " 0004 "))]
    assert len(shown[-2].split()) > len(shown[-1].split())  # the winner alone has test figures
