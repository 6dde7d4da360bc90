"""`python -m trainlab compare`: what differs between runs, and what came out."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time

import pytest
import yaml
from forked import finish
from ledgers import keep, result

import trainlab
from trainlab.__main__ import main
from trainlab.cli import compare
from trainlab.errors import CheckpointError
from trainlab.storage import checkpoint, run_folder
from trainlab.sweeps.execute import ledger

PLAIN = ["preflight=none", "probe=none", "max_steps=20", "quiet=true"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    where = tmp_path_factory.mktemp("runs")
    lines = {"a": ["optim.lr=1e-3"], "b": ["optim.lr=0.001", "seed=1"],
             "c": ["activation=elu", "optim=adam", "optim.lr=0.001"]}  # fmt: skip
    for name, words in lines.items():
        code, _ = finish([*PLAIN, *words, f"hydra.run.dir={where}/{name}"], where)
        assert code == 0, (where / "output.txt").read_text()
    return where


def tables(out):
    """First words of a line -> the rest of it."""
    lines = [line.split("  ") for line in out.splitlines() if line.strip()]
    return {line[0].strip(): [part.strip() for part in line[1:] if part.strip()] for line in lines}


def shown(runs, names, capsys):
    assert compare.main([str(runs / name) for name in names]) == 0
    return tables(capsys.readouterr().out)


def test_settings_that_differ_as_values_and_figures_side_by_side(runs, capsys):
    told = shown(runs, "ab", capsys)
    assert told["seed"] == ["0", "1"]
    assert "optim.lr" not in told  # 1e-3 is 0.001
    assert "activation" not in told
    for row, split, name in (("val loss", "val", "loss"), ("test accuracy", "test", "accuracy")):
        seen = [json.loads((runs / run / "summary.json").read_text()) for run in "ab"]
        assert [float(v) for v in told[row]] == [round(s["results"][split][name], 4) for s in seen]
    assert told["steps"] == ["20", "20"]
    assert len(told["ms a step"]) == 2
    assert not any(key.startswith("environment") for key in told)  # all equal


def test_a_run_of_an_earlier_version_is_refused(runs, capsys, tmp_path):
    old = shutil.copytree(runs / "a", tmp_path / "old")
    summary = json.loads((old / "summary.json").read_text())
    del summary["metrics"]  # which way is better stood in the code
    (old / "summary.json").write_text(json.dumps(summary))
    assert main(["compare", str(old), str(runs / "b")]) == 2
    assert (
        "summary.json: of an earlier version of trainlab; run it again" in capsys.readouterr().err
    )


def test_words_rather_than_what_they_stand_for(runs, capsys):
    told = shown(runs, "ac", capsys)
    assert told["activation"] == ["relu", "elu"]
    assert told["optim"] == ["momentum", "adam"]
    assert told["activation.alpha"] == ["1.0"]
    assert not any("_target_" in key for key in told)


def test_equal_settings_are_said_to_be(runs, capsys):
    assert compare.main([str(runs / "a")] * 2) == 0
    assert "settings: all equal" in capsys.readouterr().out


def test_another_environment_is_told(runs, tmp_path, capsys):
    for name in "ab":
        shutil.copytree(runs / "a", tmp_path / name)
    summary = json.loads((tmp_path / "b" / "summary.json").read_text())
    summary["environment"]["torch"] = "9.9"
    (tmp_path / "b" / "summary.json").write_text(json.dumps(summary))
    assert shown(tmp_path, "ab", capsys)["environment torch"][1] == "9.9"


def test_an_unfinished_run_has_its_state(runs, tmp_path, capsys):
    for name in "ab":
        shutil.copytree(runs / name, tmp_path / name)
    (tmp_path / "b" / "summary.json").unlink()
    run_folder.Status(tmp_path / "b", "").write("stopped")
    told = shown(tmp_path, "ab", capsys)
    assert told["state"] == ["finished", "stopped"]
    assert len(told["val loss"]) == 1


def test_of_a_sweep_only_the_best_shows_its_test_figures(runs, tmp_path, capsys):
    jobs = {f"{name}{number}": number for number, name in enumerate("abcab")}
    for folder in jobs:
        shutil.copytree(runs / folder[0], tmp_path / folder)
    ledger.write_jobs(tmp_path, jobs)
    assert compare.found(tmp_path) == [tmp_path / folder for folder in jobs]
    assert compare.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    losses = [json.loads(p.read_text())["results"] for p in sorted(tmp_path.glob("*/summary.json"))]
    best = min(losses, key=lambda row: row["val"]["loss"])
    shown = {f"{row['test']['loss']:.4g}" for row in losses if f"{row['test']['loss']:.4f}" in out}
    assert shown == {f"{best['test']['loss']:.4g}"}
    assert "0003" in out  # of many runs, their numbers


def planned(runs, sweep):
    """A sweep of 2 settings with 2 seeds and a run that failed before it wrote its config."""
    found = []
    for number, name in enumerate("acbc"):
        values = {"activation": name.replace("b", "a"), "seed": number // 2}
        found.append(result(number, values, 1.0 + (name == "c")))
    found.append(result(4, {"activation": "x" * 60, "seed": 0}))
    for entry, name in zip(found, "acbca", strict=True):
        shutil.copytree(runs / name, sweep / entry["folder"])
    last = sweep / found[4]["folder"]
    for name in ("config.yaml", "summary.json"):
        (last / name).unlink()
    run_folder.Status(last, "").write("paused")
    found[4]["state"] = "dropped"
    keep(sweep, found)
    return [sweep / entry["folder"] for entry in found]


def test_a_sweep_as_its_ledger_has_it(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    folders = planned(runs, tmp_path / "s")
    assert compare.found(tmp_path / "s") == folders
    results = compare.ledger_results(folders)
    outcomes = [compare.outcome(run, results[run]) for run in folders]
    assert [told["state"] for told in outcomes] == ["finished"] * 4 + ["dropped"]
    assert compare.best(folders, outcomes, results) == {0, 2}  # both seeds of the winner
    assert compare.main([str(tmp_path / "s")]) == 0
    assert compare.main([str(folders[0]), str(folders[4])]) == 0
    out = capsys.readouterr().out
    assert re.search(r"result +0000 +0004 ", out)
    assert "settings: all equal" in out  # Hydra's config is that of the run


def test_long_names_are_not_cut(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for number, name in enumerate("abc"):
        shutil.copytree(runs / name, tmp_path / f"{name * 60}-{number}")
    shown(tmp_path, [f"{name * 60}-{number}" for number, name in enumerate("abc")], capsys)
    compare.main([str(tmp_path)])
    out = capsys.readouterr().out
    assert "\N{HORIZONTAL ELLIPSIS}" not in out
    assert all(f"-{number}" in out for number in range(3))


def test_pausing_is_no_setting(runs, tmp_path):
    shutil.copytree(runs / "a", tmp_path / "a")
    own = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    (tmp_path / "a" / "config.yaml").write_text(yaml.safe_dump(own | {"pause_at": 0.5}))
    assert compare.run_settings(tmp_path / "a") == compare.run_settings(runs / "a")


def test_values_not_texts():
    differing = compare.differing
    assert differing([{"a": 1, "b": True}, {"a": 1.0, "b": 1}]) == {"b": [True, 1]}
    assert compare._number(["1e-3", "x", True, None]) == [0.001, "x", True, None]


def test_a_resumed_run_has_the_words_it_went_on_with(runs, tmp_path):
    shutil.copytree(runs / "a", tmp_path / "a")
    again = tmp_path / "a" / ".hydra" / "resume-001"
    again.mkdir()
    told = yaml.safe_load((tmp_path / "a" / ".hydra" / "hydra.yaml").read_text())
    told["hydra"]["runtime"]["choices"]["optim"] = "adam"
    (again / "hydra.yaml").write_text(yaml.safe_dump(told))
    assert compare.run_settings(tmp_path / "a")["optim"] == "adam"


@pytest.mark.parametrize(
    "typed, told",
    [
        (["nowhere", "b"], "nowhere: no such folder; give the folder of a run or of a sweep"),
        ([".", "b"], ".: no run there"),
        (["b"], "b: one run; give another folder"),
        (["b", "torn"], "torn/config.yaml: cannot be read"),
    ],
)
def test_a_wrong_folder_is_one_line(tmp_path, capsys, monkeypatch, typed, told):
    monkeypatch.chdir(tmp_path)
    for name in typed:
        if name in ("b", "torn"):
            (tmp_path / name).mkdir()
            text = "{seed: 1, metric: {}}" if name == "b" else "seed: ["
            (tmp_path / name / "config.yaml").write_text(text)
    if typed == [".", "b"]:
        shutil.rmtree(tmp_path / "b")
    assert main(["compare", *typed]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("argv, code", [(["compare"], 2), (["compare", "--help"], 0)])
def test_without_runs_it_says_what_it_does(capsys, argv, code):
    assert main(argv) == code
    assert capsys.readouterr().out.startswith("`trainlab compare RUN RUN...`: which settings")


def test_it_starts_without_torch(runs):
    code = (
        "import sys\nfrom trainlab.__main__ import main\n"
        f"code = main(['compare', {str(runs / 'a')!r}, {str(runs / 'c')!r}])\n"
        "print('torch' in sys.modules, 'hydra' in sys.modules, 'scipy' in sys.modules, code)"
    )
    times = []
    for _ in range(3):
        begun = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        times.append(time.monotonic() - begun)
    assert done.stdout.splitlines()[-1] == "False False False 0"
    assert min(times) < 1.5  # about 0.3 s on an idle machine


def test_a_run_of_an_earlier_version_is_refused_in_one_line(runs, tmp_path, capsys):
    """Made before the rooms: a config without `metric`, a checkpoint of format 2."""
    old = tmp_path / "old"
    shutil.copytree(runs / "a", old)
    config = yaml.safe_load((old / "config.yaml").read_text())
    del config["metric"]
    (old / "config.yaml").write_text(yaml.safe_dump(config))
    summary = json.loads((old / "summary.json").read_text())
    del summary["metrics"]
    (old / "summary.json").write_text(json.dumps(summary))
    (manifest,) = (old / "checkpoints").glob("ckpt-*.json")
    facts = checkpoint.manifest(manifest) | {"format": 2, "config": config}
    body = json.dumps(facts).encode()
    manifest.write_bytes(body + b"\n" + hashlib.sha256(body).hexdigest().encode() + b"\n")

    for command in (["compare", str(old), str(runs / "b")], [f"resume={old}", "epochs=9"]):
        assert main(command) != 0
        told = capsys.readouterr().err
        assert told.startswith("trainlab: error[") and told.count("\n") == 1, told
        assert "internal" not in told and "version" in told
    with pytest.raises(CheckpointError, match="format 2, .*; use the version that wrote it"):
        trainlab.load(old)
    assert isinstance(trainlab.examine(old), list)  # of its rows, which are as they were
