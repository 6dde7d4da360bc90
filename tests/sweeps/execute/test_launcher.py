"""hydra/launcher=stack leaves for every job the folder that it would have left alone."""

import json
from pathlib import Path

import pytest

from trainlab.__main__ import main
from trainlab.observe import metrics_log

LINES = ["-m", "optim.lr=0.1,0.03", "seed=0,1", "max_steps=60", "probe.every=20", "quiet=true"]


def sweep(folder, *lines, launcher="stack"):
    code = main([*lines, f"hydra/launcher={launcher}", f"hydra.sweep.dir={folder}"])
    jobs = sorted((p.parent for p in Path(folder).glob("*/config.yaml")), key=lambda p: p.name)
    return code, {job.name.replace(f"_hydra-launcher={launcher}", ""): job for job in jobs}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps")
    code, stacked = sweep(folder / "stack", *LINES, "stack.size=4")
    assert code == 0
    code, alone = sweep(folder / "basic", *LINES, "stack.size=4", launcher="basic")
    assert code == 0
    return stacked, alone


def test_the_folders_hold_the_same_files(both):
    stacked, alone = both
    assert len(stacked) == 4 and stacked.keys() == alone.keys()
    for name, job in stacked.items():
        files = [{kind(p.relative_to(each)) for p in each.rglob("*") if p.is_file()}
                 for each in (job, alone[name])]  # fmt: skip
        assert files[0] == files[1]
        for file in ("config.yaml", ".hydra/config.yaml"):
            assert (job / file).read_bytes() == (alone[name] / file).read_bytes()
        states = [json.loads((each / "status.json").read_text()) for each in (job, alone[name])]
        assert states[0] | {"pid": 0} == states[1] | {"pid": 0}


def kind(path):
    """A path without what differs from start to start."""
    name = str(path)
    return "events" if "tfevents" in name else name.rpartition("-best")[0] or name


def test_the_rows_are_those_of_the_runs_alone(both):
    stacked, alone = both
    for name, job in stacked.items():
        mine, own = (rows_of(each) for each in (job, alone[name]))
        assert mine.keys() == own.keys()
        for step, row in mine.items():
            assert row.keys() == own[step].keys()
            for tag, value in row.items():
                assert float(value) == pytest.approx(float(own[step][tag]), rel=2e-2, abs=2e-2)


def rows_of(job):
    found: dict = {}
    for row in metrics_log.rows(job / "metrics.jsonl"):
        if "histogram" in row:
            found.setdefault(row["step"], {})[row["histogram"]] = sum(row["counts"])
        elif "step" in row:
            values = {tag: v for tag, v in row.items() if tag != "step"}
            found.setdefault(row["step"], {}).update(values)
    return found


def test_summaries_and_findings(both):
    stacked, alone = both
    for name, job in stacked.items():
        mine, own = (json.loads((each / "summary.json").read_text()) for each in (job, alone[name]))
        assert mine.keys() == own.keys()
        assert mine["results"]["val"]["loss"] == pytest.approx(own["results"]["val"]["loss"], 1e-3)
        assert mine["best_step"] == own["best_step"] and mine["steps"] == own["steps"] == 60
        found = [json.loads((each / "findings.json").read_text()) for each in (job, alone[name])]
        assert [f["id"] for f in found[0]] == [f["id"] for f in found[1]]


def test_a_job_alone_can_be_loaded_and_judged_again(both):
    import trainlab

    job = next(iter(both[0].values()))
    kept = json.loads((job / "summary.json").read_text())
    again = trainlab.run("task=evaluate", f"resume={job}", "quiet=true")
    assert again["results"] == kept["results"]


def test_a_run_that_diverges_ends_alone(tmp_path, capsys):
    lines = ["-m", "optim.lr=0.1,1e6", "seed=0,1", "max_steps=120", "stack.size=4",
             "preflight=none"]  # fmt: skip
    code, jobs = sweep(tmp_path, *lines)
    assert code == 8
    states = {name: json.loads((j / "status.json").read_text()) for name, j in jobs.items()}
    assert {s["state"] for n, s in states.items() if "lr=0.1" in n} == {"finished"}
    lost = [s for n, s in states.items() if "lr=0.1" not in n]
    assert [s["state"] for s in lost] == ["diverged"] * 2
    told = capsys.readouterr()
    assert "try optim.lr=" in told.err
    assert "  4 runs: 2 running, 2 diverged  train/loss" in told.out


def test_what_does_not_stack_runs_alone_with_the_reason(tmp_path, capsys):
    lines = ["-m", "optim=muon", "seed=0,1", "max_steps=5", "preflight=none", "stack.size=2"]
    code, jobs = sweep(tmp_path, *lines)
    assert code == 0 and len(jobs) == 2
    assert "one by one: " in capsys.readouterr().out


def test_jobs_of_another_structure_are_another_stack(tmp_path, capsys):
    lines = ["-m", "activation=relu,tanh", "seed=0,1", "max_steps=5", "preflight=none",
             "stack.size=8"]  # fmt: skip
    code, jobs = sweep(tmp_path, *lines)
    assert code == 0 and len(jobs) == 4
    out = capsys.readouterr().out
    assert "stack 0: 2 runs" in out and "stack 1: 2 runs" in out


def test_verdicts_are_those_of_the_setting(tmp_path):
    lines = ["-m", "optim.lr=1e4,0.05", "seed=0,1", "max_steps=5", "stack.size=4", "quiet=true"]
    _, jobs = sweep(tmp_path, *lines)
    seen = {name: json.loads((job / "verdicts.json").read_text()) for name, job in jobs.items()}
    for name, verdicts in seen.items():
        overfit = next(v for v in verdicts if v["name"] == "overfit")
        assert (overfit["status"] == "PASS") == ("lr=0.05" in name)


def test_one_by_one_is_as_alone_with_dropout_too(tmp_path):
    lines = ["-m", "optim=muon", "model.dropout=0.3", "seed=0,1", "max_steps=20", "quiet=true",
             "preflight=none", "probe=none"]  # fmt: skip
    seen = []
    for launcher in ("stack", "basic"):
        _, jobs = sweep(tmp_path / launcher, *lines, "stack.size=2", launcher=launcher)
        told = [json.loads((job / "summary.json").read_text()) for job in jobs.values()]
        seen.append([summary["weights_sha256"] for summary in told])
    assert len(seen[0]) == 2 and seen[0] == seen[1]


def test_a_run_that_stops_early_has_the_rows_it_has_alone(tmp_path):
    lines = ["-m", "optim.lr=0.3,0.003", "epochs=12", "early_stop.patience=2", "quiet=true",
             "preflight=none"]  # fmt: skip
    both = [sweep(tmp_path / name, *lines, "stack.size=2", launcher=name)[1]
            for name in ("stack", "basic")]  # fmt: skip
    ends = set()
    for name, job in both[0].items():
        mine, own = (rows_of(each) for each in (job, both[1][name]))
        ends.add(max(mine))
        assert {step: set(row) for step, row in mine.items()} == {
            step: set(row) for step, row in own.items()
        }
    assert len(ends) == 2, "both ended at the same step: nothing was shown"


SPEED = ["-m", "optim.lr=0.1,0.03", "max_steps=30", "quiet=true", "preflight=none", "probe=none",
         "model.widths=[16]"]  # fmt: skip


def spread_of(tmp_path, *words):
    """Validation losses of the stack, and of each run alone; what the stack printed."""
    seen = []
    for launcher in ("stack", "basic"):
        own = {line.partition("=")[0]: line for line in [*SPEED, "stack.size=2", *words]}
        lines = list(own.values())
        code, jobs = sweep(tmp_path / launcher, *lines, launcher=launcher)
        assert code == 0
        told = [json.loads((job / "summary.json").read_text()) for job in jobs.values()]
        seen.append([summary["results"]["val"]["loss"] for summary in told])
    return seen


def test_half_precision_stacks(tmp_path, capsys):
    stacked, alone = spread_of(tmp_path, "precision=bf16", "quiet=false")
    assert "one by one" not in capsys.readouterr().out
    full, _ = spread_of(tmp_path / "full")
    assert stacked == pytest.approx(alone, rel=1e-2)
    assert stacked != pytest.approx(full, rel=1e-6)


@pytest.mark.long
def test_a_compiled_stack_equals_compiled_runs(tmp_path, capsys):
    """20 s on a CPU to compile a stack, and each run beside it."""
    stacked, alone = spread_of(tmp_path, "compile=true", "quiet=false")
    assert "one by one" not in capsys.readouterr().out
    assert stacked == pytest.approx(alone, rel=1e-3)


def test_a_stack_that_draws_is_not_compiled(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.compile", lambda model: model)
    lines = [*SPEED[:3], *SPEED[4:], "stack.size=2", "compile=true", "model.dropout=0.2"]
    code, jobs = sweep(tmp_path, *lines)
    told = "one by one: compile: not in a stack that draws at random; run one by one"
    assert code == 0 and told in capsys.readouterr().out
