"""Real runs through the front door: no warning for healthy ones, planted faults by name."""

import json
import os
import signal
import time

import pytest
from forked import finish, start

from trainlab import examine
from trainlab.observe.metrics_log import rows

SHORT = ["preflight=none", "epochs=5", "seed=11"]
HEALTHY = {
    "default": [],
    "elu and adam": ["activation=elu", "optim=adam"],
    "batch norm and dropout": ["norm=batch", "model.dropout=0.3"],
    "tanh": ["activation=tanh", "init=xavier_normal"],
    "cnn": ["model=cnn", "model.channels=[8,16]", "epochs=3"],
    "converged": ["epochs=20"],
    "batch norm, high lr": ["norm=batch", "optim.lr=0.2"],
    "batch norm frozen on purpose": ["norm=batch", "groups.freeze=['*norm*']"],
    "strong dropout": ["model.dropout=0.5"],
    "frozen on purpose": ["groups.freeze=['hidden1*']"],
}
DEEP = "model.widths=[64,64,64,64,64,64]"
PLANTED = {
    "lr 1000 times too high": ("optim.lr_high", ["optim.lr=50"]),
    "adam 100 times too high": ("optim.lr_high", ["optim=adam", "optim.lr=0.3", "epochs=10"]),
    "lr far too low": ("optim.lr_low", ["optim.lr=1e-6", "epochs=10"]),
    "large sigmoid": ("act.saturated", ["init=unit_gaussian", "activation=sigmoid"]),
    "small and deep": ("init.too_small", ["init=small_gaussian", DEEP]),
    "deep sigmoid": ("grad.vanishing", ["activation=sigmoid", DEEP[:-1] + ",64,64]"]),
    "dead": ("act.dead", ["init.bias=-10"]),
    "by heart": ("fit.overfit", ["data.label_noise=0.4", "epochs=40"]),
    "zeros": ("init.zero", ["init=zeros"]),
    "decay": ("reg.weight_decay_high", ["optim.weight_decay=3"]),
    "clipped": ("optim.overclipped", ["clip.norm=1e-4"]),
}


def run(where, words):
    asked = {word.partition("=")[0] for word in words}
    usual = [word for word in SHORT if word.partition("=")[0] not in asked]
    code, _ = finish([*usual, *words, f"hydra.run.dir={where}/run"], where)
    kept = json.loads((where / "run" / "findings.json").read_text())
    return code, kept, (where / "output.txt").read_text()


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_has_no_warning(tmp_path, name):
    code, kept, _ = run(tmp_path, HEALTHY[name])
    assert code == 0
    assert [f for f in kept if f["severity"] != "info"] == []


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_named_first(tmp_path, name):
    expected, words = PLANTED[name]
    code, kept, told = run(tmp_path, words)
    assert code in (0, 7)
    assert kept[0]["id"] == expected, kept
    line = next(line for line in told.splitlines() if expected in line)
    assert line.startswith(kept[0]["severity"])
    assert kept[0]["remedy"] in line
    cards = [r for r in rows(tmp_path / "run" / "metrics.jsonl") if r.get("text") == "findings"]
    assert len(cards) == 1
    assert expected in cards[0]["markdown"]


def test_a_stopped_run_has_findings_and_resumed_those_of_an_undisturbed_one(tmp_path):
    words = ["preflight=none", "epochs=60", "seed=1", "init.bias=-10", "probe.every=20"]
    (tmp_path / "whole").mkdir()
    assert finish([*words, f"hydra.run.dir={tmp_path}/whole/run"], tmp_path / "whole")[0] == 0

    pid = start([*words, f"hydra.run.dir={tmp_path}/run"], tmp_path)
    made, begun = tmp_path / "run" / "metrics.jsonl", time.monotonic()
    while not (made.exists() and made.stat().st_size > 20_000):
        assert time.monotonic() - begun < 30
        time.sleep(0.005)
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 143
    assert json.loads((tmp_path / "run" / "findings.json").read_text())[0]["id"] == "act.dead"

    assert finish([f"resume={tmp_path}/run"], tmp_path)[0] == 0
    for name in ("findings.json", "metrics.jsonl"):
        resumed, whole = (base / "run" / name for base in (tmp_path, tmp_path / "whole"))
        assert resumed.read_bytes() == whole.read_bytes(), name
    assert examine(tmp_path / "run") == examine(tmp_path / "whole" / "run")


def test_without_probes_there_is_what_the_curves_say(tmp_path):
    words = [*SHORT, "probe=none", "max_steps=20", f"hydra.run.dir={tmp_path}/run"]
    assert finish(words, tmp_path)[0] == 0
    assert not (tmp_path / "run" / "findings.json").exists()
    assert [f.id for f in examine(tmp_path / "run")] == ["fit.undertrained"]


def test_the_start_is_compared_with_the_best_constant_answer(tmp_path):
    run(tmp_path, ["max_steps=5"])
    first = next(row for row in rows(tmp_path / "run" / "metrics.jsonl") if "step" in row)
    assert first["step"] == 0
    assert first["chance/loss"] == pytest.approx(2.3026, abs=1e-3)  # ln 10, balanced classes
    assert first["chance/accuracy"] == pytest.approx(0.1, abs=0.01)
    assert 2 < first["start/loss"] < 5
