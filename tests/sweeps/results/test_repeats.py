"""`repeats=n`: n seeds of one setting, their mean and spread."""

import json
from statistics import mean, stdev

import pytest

from trainlab.__main__ import main
from trainlab.observe import metrics_log
from trainlab.sweeps.execute import ledger

PLAIN = ["preflight=none", "probe=none", "max_steps=40", "evaluate.every=20", "stack.size=3"]


def test_three_seeds_their_mean_and_their_band(tmp_path, capsys):
    assert main(["repeats=3", "seed=5", *PLAIN, f"hydra.run.dir={tmp_path}/run"]) == 0
    out = capsys.readouterr().out
    runs = sorted((tmp_path / "run").glob("*/summary.json"))
    assert [json.loads((r.parent / "status.json").read_text())["state"] for r in runs] == [
        "finished"
    ] * 3
    assert [f"seed={n}" in r.parent.name for n, r in zip((5, 6, 7), runs, strict=True)] == [
        True
    ] * 3
    seen = [json.loads(r.read_text())["results"] for r in runs]
    for split in ("val", "test"):
        values = [row[split]["accuracy"] for row in seen]
        assert f"{mean(values):.4f} +- {stdev(values):.4f}" in out
    told = metrics_log.rows(tmp_path / "run" / "mean-0" / "metrics.jsonl")
    rows = {row["step"]: row for row in told if "step" in row}
    logs = [metrics_log.rows(r.parent / "metrics.jsonl") for r in runs]
    own = [{row["step"]: row for row in rows if "step" in row} for rows in logs]
    losses = [run[20]["val/loss"] for run in own]
    assert rows[20]["val/loss"] == pytest.approx(mean(losses))
    assert rows[20]["val/loss_upper"] == pytest.approx(mean(losses) + stdev(losses))
    assert list((tmp_path / "run" / "mean-0").glob("events.out.tfevents.*"))


def test_in_a_sweep_every_setting_has_its_mean(tmp_path, capsys):
    lines = ["-m", "repeats=2", "optim.lr=0.1,0.01", *PLAIN, f"hydra.sweep.dir={tmp_path}/s"]
    assert main(lines) == 0
    out = capsys.readouterr().out
    found = ledger.results(tmp_path / "s")
    for lr in (0.1, 0.01):
        losses = [r["monitor"]["value"] for r in found if r["values"]["optim.lr"] == lr]
        row = next(line.split() for line in out.splitlines() if line.startswith(f" {lr} "))
        assert row[:4] == [f"{lr}", "2", f"{mean(losses):.4f}", f"{stdev(losses):.4f}"]
    assert out.count("test loss") == 1  # of the best only: it chooses nothing


@pytest.mark.parametrize(
    "line, told",
    [
        (["seed=1,2", "-m"], "drop seed=1,2"),
        (["resume=auto"], "not together with resume"),
        (["hydra.sweep.dir=new"], "use hydra.run.dir=new"),
        (["hydra.run.dir=new", "-m"], "use hydra.sweep.dir=new"),
        (["sweep.nuisance=[seed]"], "compared across seeds"),
        (["sweep.trials=5", "-m"], "no key is varied"),
        (["search=lr", "search=lr_wd", "-m"], "search is given twice"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, capsys, monkeypatch, line, told):
    monkeypatch.chdir(tmp_path)
    assert main(["repeats=2", *PLAIN, *line]) == 2
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1
