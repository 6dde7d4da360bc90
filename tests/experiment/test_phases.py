"""A whole run: what it leaves behind, and that whoever watches changes nothing."""

import json
import math

import pytest
import torch
from forked import finish

import trainlab
from trainlab.__main__ import main
from trainlab.errors import ConfigError
from trainlab.observe.metrics_log import rows
from trainlab.storage import restore

NETS = {
    "mlp": ["model.widths=[32,16]", "model.dropout=0.3", "norm=batch", "optim=adam"],
    "cnn": ["model=cnn", "model.channels=[4,8]", "batch_size=64"],
}
WATCHERS = {
    "every step": ["probe.every=1", "preflight=none"],
    "default": ["preflight=none"],
    "preflight too": ["preflight=full"],
}


def final(where, net, watchers):
    """The tensors of the last checkpoint: weights, moments and random state."""
    run = where / "run"
    words = [*NETS[net], "max_steps=200", f"hydra.run.dir={run}", *watchers]
    code, _ = finish(words, where)
    assert code == 0, (where / "output.txt").read_text()
    found, _ = restore.newest(run / "checkpoints")
    assert found.step == 200
    return found.tensors | {f"best.{name}": tensor for name, tensor in found.best.items()}


@pytest.mark.parametrize("net", NETS)
def test_watching_changes_no_bit(tmp_path, net):
    """200 steps with nothing watching, probes on every step, at the default cadence, preflight."""
    (tmp_path / "off").mkdir()
    expected = final(tmp_path / "off", net, ["probe=none", "preflight=none"])
    for name, words in WATCHERS.items():
        (tmp_path / name).mkdir()
        seen = final(tmp_path / name, net, words)
        assert seen.keys() == expected.keys()
        for tensor in expected:
            assert torch.equal(seen[tensor], expected[tensor]), f"{name}: {tensor}"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    where = tmp_path_factory.mktemp("run")
    words = [
        "activation=elu",
        "optim=adam",
        "epochs=2",
        "preflight=full",
        f"hydra.run.dir={where}/run",
    ]
    code, _ = finish(words, where)
    assert code == 0, (where / "output.txt").read_text()
    return where / "run"


def test_what_is_printed_comes_in_order(run):
    text = (run.parent / "output.txt").read_text()
    marks = ["recipe", "elu*", "data    digits: 1257 / 180 / 360", "hidden1", "17,226",
             "preflight (", "initial_loss", "overfit", "step 40/", "step 80/", "best weights",
             " test ",
             f"files   {run}", f"tensorboard --logdir {run}"]  # fmt: skip
    places = [text.find(mark) for mark in marks]
    assert -1 not in places, marks[places.index(-1)]
    assert places == sorted(places)


def test_a_run_leaves_its_files(run):
    names = {"config.yaml", "metrics.jsonl", "verdicts.json", "summary.json", "status.json"}
    assert names <= {path.name for path in run.iterdir()}
    assert len(list(run.glob("events.out.tfevents.*"))) == 1
    assert (run / ".hydra" / "overrides.yaml").exists()
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert {v["status"] for v in json.loads((run / "verdicts.json").read_text())} == {"PASS"}


def test_test_is_evaluated_once_with_the_best_weights(run):
    summary = json.loads((run / "summary.json").read_text())
    tested = [row for row in rows(run / "metrics.jsonl") if any("test" in tag for tag in row)]
    assert len(tested) == 1
    assert tested[0]["best/test_accuracy"] == summary["results"]["test"]["accuracy"]
    losses = {
        row["step"]: row["val/loss"] for row in rows(run / "metrics.jsonl") if "val/loss" in row
    }
    assert summary["best_step"] == min(losses, key=losses.get)
    assert summary["results"]["val"]["loss"] == pytest.approx(min(losses.values()), rel=1e-6)


def test_every_layer_has_its_curves(run):
    tags = {tag for row in rows(run / "metrics.jsonl") for tag in row}
    for layer in ("01.elu", "02.elu", "03.logits"):
        for quantity in (
            "activation_mean",
            "activation_std",
            "activation_unit_std",
            "gradient_norm",
        ):
            assert f"{quantity}/{layer}" in tags
    for layer in ("01.elu", "02.elu"):
        for quantity in ("activation_saturated", "activation_zero", "activation_dead"):
            assert f"{quantity}/{layer}" in tags
    for quantity in ("weight_gradient_norm", "update_ratio", "weight_norm"):
        assert sum(tag.startswith(f"{quantity}/") for tag in tags) >= 3


def test_load_gives_the_best_model_its_preprocessing_and_classes(run):
    from trainlab.data.sources import digits

    model, preprocess, classes = trainlab.load(run)
    test = digits().test
    with torch.no_grad():
        hits = (model(preprocess(test.x)).argmax(1) == test.y).double().mean()
    summary = json.loads((run / "summary.json").read_text())
    assert float(hits) == pytest.approx(summary["results"]["test"]["accuracy"])
    assert classes == tuple("0123456789")


def test_evaluate_repeats_the_closing_table(run, tmp_path):
    before = (run / "metrics.jsonl").read_bytes(), (run / "summary.json").read_bytes()
    code, _ = finish(["task=evaluate", f"resume={run}"], tmp_path)
    assert code == 0
    summary = json.loads((run / "summary.json").read_text())
    assert f"{summary['results']['test']['accuracy']:.4f}" in (tmp_path / "output.txt").read_text()
    assert ((run / "metrics.jsonl").read_bytes(), (run / "summary.json").read_bytes()) == before


def test_run_from_python_is_quiet_enough_and_gives_the_summary(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    summary = trainlab.run("max_steps=5", "preflight=none", "probe=none", "quiet=true")
    assert summary["steps"] == 5
    assert math.isfinite(summary["results"]["test"]["loss"])
    with pytest.raises(ConfigError, match="did you mean optim.lr"):
        trainlab.run("learning_rate=1")


def test_a_loss_that_is_not_finite_ends_with_7_and_no_bad_checkpoint(tmp_path):
    words = ["optim=sgd", "optim.lr=1e9", "preflight=none", "checkpoint.every=1"]
    code, _ = finish([*words, f"hydra.run.dir={tmp_path}/run"], tmp_path)
    assert code == 7
    last = (tmp_path / "output.txt").read_text().strip().splitlines()[-1]
    assert last.startswith("trainlab: error[nonfinite]: loss = ")
    assert "try optim.lr=" in last
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "diverged"
    if (tmp_path / "run" / "checkpoints").exists():
        found, wrong = restore.newest(tmp_path / "run" / "checkpoints")
        assert not wrong
        assert all(t.isfinite().all() for t in found.tensors.values())


def test_a_last_batch_of_one_image_is_refused_with_batch_norm(tmp_path):
    words = ["norm=batch", "batch_size=157", "preflight=none", f"hydra.run.dir={tmp_path}/run"]
    code, _ = finish(words, tmp_path)  # 1257 = 8 * 157 + 1
    assert code == 2
    assert "batch norm needs two; use batch_size=158" in (tmp_path / "output.txt").read_text()


def test_eight_runs_of_a_sweep_all_complete_although_sigmoid_cannot_overfit(tmp_path):
    words = ["-m", "activation=sigmoid,tanh,relu,elu", "seed=0,1", "epochs=1", "optim=adam"]
    code, _ = finish([*words, f"hydra.sweep.dir={tmp_path}/sweep"], tmp_path)
    assert code == 0
    assert len(list(tmp_path.glob("sweep/*/summary.json"))) == 8
    told = (tmp_path / "output.txt").read_text().splitlines()
    for word in ("sigmoid", "tanh", "relu", "elu"):
        files = tmp_path.glob(f"sweep/*activation={word},*/summary.json")
        losses = [json.loads(path.read_text())["results"]["val"]["loss"] for path in files]
        row = next(line.split() for line in told if line.split()[:2] == [word, "2"])
        assert row[2] == f"{sum(losses) / 2:.4f}"
    assert told[-1] == f"curves  tensorboard --logdir {tmp_path}/sweep"
    for path in tmp_path.glob("sweep/*/verdicts.json"):
        overfit = next(v for v in json.loads(path.read_text()) if v["name"] == "overfit")
        assert overfit["status"] == ("WARN" if "sigmoid" in path.parent.name else "PASS")


def test_the_closing_table_is_that_of_the_best_weights_not_of_the_last(tmp_path):
    words = ["optim=adam", "optim.lr=0.02", "schedule=constant", "epochs=12", "preflight=none"]
    code, _ = finish([*words, f"hydra.run.dir={tmp_path}/run"], tmp_path)
    assert code == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    table = {r["step"]: r for r in rows(tmp_path / "run" / "metrics.jsonl") if "val/loss" in r}
    best, last = table[summary["best_step"]], table[summary["steps"]]
    assert best["val/loss"] < last["val/loss"], "choose a recipe that gets worse"
    assert summary["results"]["val"]["loss"] == pytest.approx(best["val/loss"], rel=1e-6)


def test_a_check_of_ones_own_that_raises_says_where(tmp_path, monkeypatch, capsys):
    (tmp_path / "conf" / "preflight").mkdir(parents=True)
    (tmp_path / "divides.py").write_text("def by_zero(fresh):\n    return 1 / 0\n")
    node = "_target_: divides.by_zero\n    _partial_: true\n"
    (tmp_path / "conf" / "preflight" / "mine.yaml").write_text(f"checks:\n  mine:\n    {node}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    start = ["--config-dir", "conf", "trust=[divides]", "preflight=mine", "probe=none"]
    assert main([*start, "max_steps=2", "model.widths=[4]", "hydra.run.dir=run"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "SKIPPED it raised ZeroDivisionError at divides.py:2 in by_zero" in said
    assert "the traceback is in run/checks-error.txt" in said
    text = (tmp_path / "run" / "checks-error.txt").read_text()
    assert "return 1 / 0" in text and "ZeroDivisionError: division by zero" in text
    (verdict,) = json.loads((tmp_path / "run" / "verdicts.json").read_text())
    assert (verdict["status"], verdict["error"] in text) == ("SKIPPED", True)
