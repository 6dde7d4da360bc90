"""The same command goes on with its sweep: what has ended stands, and only the rest runs."""

import fcntl
import json
import os
import shutil
from pathlib import Path

import numpy as np
import planted
import pytest

from trainlab.__main__ import main
from trainlab.sweeps.execute import ledger

SMALL = ["preflight=none", "probe=none", "model.widths=[8]", "max_steps=20", "checkpoint.every=10"]
SWEEP = ["-m", *SMALL, "seed=range(0,3)"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def only(path: Path) -> Path:
    (found,) = (path / "runs").iterdir()
    return found


def ends(sweep: Path) -> dict[str, int]:
    """When each job ended."""
    return {p.parent.name: p.stat().st_mtime_ns for p in sweep.glob("*/summary.json")}


def weights(sweep: Path) -> list[str]:
    found = sorted(sweep.glob("*/summary.json"))
    return [json.loads(path.read_text())["weights_sha256"] for path in found]


def test_only_what_is_missing_runs(here, capsys):
    assert main(SWEEP) == 0
    sweep = only(here)
    before, bits, first = ends(sweep), weights(sweep), ledger.results(sweep)
    assert [r["number"] for r in first] == [0, 1, 2]
    assert [r["values"] for r in first] == [{"seed": 0}, {"seed": 1}, {"seed": 2}]
    assert main(SWEEP) == 0 and ends(sweep) == before
    assert "complete: 3 of 3 jobs have ended" in capsys.readouterr().out

    lost, recovered, cut = (sweep / f"000{n}_seed={n}" for n in range(3))
    results = {r["number"]: sweep / "results" / f"{r['digest']}.json" for r in first}
    results[0].unlink()  # a job that never began
    shutil.rmtree(lost)
    results[1].unlink()  # the process died between its end and its result
    results[2].unlink()  # the process died in its middle
    (cut / "summary.json").unlink()
    (cut / "checkpoints" / "ckpt-00000020.json").unlink()
    status = json.loads((cut / "status.json").read_text())
    (cut / "status.json").write_text(json.dumps(status | {"state": "running"}))
    assert main([*SWEEP, "quiet=true"]) == 0
    after = ends(sweep)
    assert {n for n in before if before[n] != after[n]} == {lost.name, cut.name}
    assert (cut / ".hydra" / "resume-001").exists() and not (lost / ".hydra/resume-001").exists()
    assert weights(sweep) == bits and ledger.results(sweep)[0] | {"seconds": 0} == first[0] | {
        "seconds": 0
    }
    assert only(here) == sweep


def test_repeats_and_a_folder_with_a_quote_go_on(here, capsys):
    folder = here / "it's"
    line = ["repeats=2", *SMALL, f"hydra.run.dir={folder}"]
    assert main(line) == 0
    cut = folder / "0001_seed=1"
    (cut / "status.json").write_text(json.dumps({"state": "running"}))
    (cut / "checkpoints" / "ckpt-00000020.json").unlink()
    next(p for p in folder.glob("results/*") if ledger.read(p)["number"] == 1).unlink()
    assert main(line) == 0
    assert "1 of 2 jobs have ended; start over with hydra.run.dir=NEW" in capsys.readouterr().out
    assert json.loads((cut / "summary.json").read_text())["resumes"] == 1


def test_another_command_is_another_sweep(here, capsys):
    assert main([*SWEEP, "quiet=true"]) == 0
    assert main(["-m", *SMALL, "seed=range(0,2)", "quiet=true"]) == 0
    assert len(list((here / "runs").iterdir())) == 2
    told = f"hydra.sweep.dir={min((here / 'runs').iterdir())}"
    capsys.readouterr()
    assert main(["-m", *SMALL, "seed=range(0,2)", "quiet=true", told]) == 5
    assert "holds another sweep (seed); choose another" in capsys.readouterr().err


def test_a_folder_with_something_else_is_no_place_for_a_sweep(here, capsys):
    assert main([*SMALL, "quiet=true", "hydra.run.dir=one"]) == 0
    before = sorted(here.glob("one/*"))
    assert main([*SWEEP, "quiet=true", "hydra.sweep.dir=one"]) == 5
    assert "one: holds files that are not a sweep" in capsys.readouterr().err
    assert sorted(here.glob("one/*")) == before
    (here / "file").touch()
    assert main([*SWEEP, "quiet=true", "hydra.sweep.dir=file"]) == 6


def test_damage_is_told_and_stops_no_other_sweep(here, capsys):
    assert main([*SWEEP, "quiet=true"]) == 0
    sweep = only(here)
    path = next(sweep.glob("results/*.json"))
    before = path.read_bytes()
    path.write_bytes(before[:20])
    assert main([*SWEEP, "quiet=true"]) == 4
    err = capsys.readouterr().err
    assert f"{path.name}: damaged; remove it" in err and err.count("\n") == 1
    path.unlink()
    assert main([*SWEEP, "quiet=true"]) == 0 and path.read_bytes() == before
    (sweep / "sweep.json").write_text("{}")
    assert main([*SWEEP, "quiet=true"]) == 0 and len(list((here / "runs").iterdir())) == 2


def test_range_tests_finish_in_a_sweep(here):
    line = ["-m", *SMALL, "task=lr_range", "task.steps=20", "task.seeds=1", "seed=0,1"]
    assert main([*line, "quiet=true"]) == 0
    assert [r["state"] for r in ledger.results(only(here))] == ["finished"] * 2


def test_a_word_whose_file_changed_is_another_command(here, capsys):
    """Of the words, not only the first."""
    (here / "my" / "activation").mkdir(parents=True)
    word = here / "my" / "activation" / "mine.yaml"
    line = ["--config-dir", "my", "-m", *SMALL, "activation=relu,mine", "quiet=true"]
    for alpha in (1.0, 5.0):
        word.write_text(f"_target_: torch.nn.ELU\n_partial_: true\nalpha: {alpha}\n")
        assert main(line) == 0 and main(line) == 0
    first, second = (ledger.results(path) for path in sorted((here / "runs").iterdir()))
    assert first[0]["monitor"] == second[0]["monitor"]
    assert first[1]["monitor"] != second[1]["monitor"]


def test_a_second_driver_is_refused(here, capsys):
    assert main([*SWEEP, "quiet=true"]) == 0
    with open(only(here) / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main([*SWEEP, "quiet=true"]) == 5
    err = capsys.readouterr().err
    assert "in use by" in err and "hydra.sweep.dir=NEW" in err and err.count("\n") == 1


def test_a_job_that_still_runs_is_waited_for(here, capsys, monkeypatch):
    assert main([*SWEEP, "quiet=true"]) == 0
    job = only(here) / "0001_seed=1"
    (only(here) / "results" / f"{ledger.results(only(here))[1]['digest']}.json").unlink()
    (job / "status.json").unlink()
    monkeypatch.setattr(ledger.free, "__defaults__", (0.1,))
    with open(job / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main([*SWEEP, "quiet=true"]) == 5
    assert "0001_seed=1: in use" in capsys.readouterr().err
    assert main([*SWEEP, "quiet=true"]) == 0 and len(ledger.results(only(here))) == 3


def test_data_that_changed_are_refused(here, capsys):
    draw = np.random.default_rng(0)
    x, y = draw.random((90, 4), np.float32), np.arange(90) % 3
    np.savez(here / "d.npz", x=x, y=y)
    line = ["-m", *SMALL, "data=npz", f"data.root={here}/d.npz", "seed=0,1", "quiet=true"]
    assert main(line) == 0
    assert main(line) == 0
    np.savez(here / "d.npz", x=x + 1, y=y)
    assert main(line) == 5
    assert "the data changed since 0000_seed=0 was trained" in capsys.readouterr().err


def test_what_failed_has_ended_unless_it_is_tried_again(here, capsys, monkeypatch):
    line = [*planted.words(here), "-m", *SMALL, "init=planted", "init.place=range(0,2)",
            "init.fails=['1:exception']", "quiet=true"]  # fmt: skip
    assert main(line) == 8
    before = ends(only(here))
    monkeypatch.setitem(planted.KINDS, "exception", lambda model: None)
    assert main(line) == 8
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert main([*line, "sweep.retry=true"]) == 0
    assert [r["state"] for r in ledger.results(only(here))] == ["finished"] * 2
    assert before.items() <= ends(only(here)).items()


def test_what_a_search_lost_is_tried_again_too(here, capsys, monkeypatch):
    line = [*planted.words(here), "-m", *SMALL, "init=planted", "init.place=range(0,3)",
            "init.fails=['1:exception']", "hydra/sweeper=halving", "sweep.trials=3",
            "evaluate.every=2", "quiet=true"]  # fmt: skip
    assert main(line) == 8
    assert "resume with" not in capsys.readouterr().err
    monkeypatch.setitem(planted.KINDS, "exception", lambda model: None)
    assert main([*line, "sweep.retry=true"]) == 0
    found = ledger.results(only(here))
    assert sorted(r["values"]["init.place"] for r in found) == [0, 1, 2]
    assert not [r for r in found if r["state"] in ledger.LOST]


def test_a_job_that_ended_otherwise_is_not_counted(here, capsys):
    assert main([*SWEEP, "quiet=true"]) == 0
    job = only(here) / "0001_seed=1"
    next(p for p in only(here).glob("results/*") if ledger.read(p)["number"] == 1).unlink()
    assert main([f"resume={job}", "max_steps=30", "resume_allow=[max_steps]", "quiet=true"]) == 0
    capsys.readouterr()
    assert main([*SWEEP, "quiet=true"]) == 5
    assert "0001_seed=1: ended with other settings" in capsys.readouterr().err
    job.rename(here / "away")
    assert main([*SWEEP, "quiet=true"]) == 0
    assert [r["steps"] for r in ledger.results(only(here))] == [20] * 3


def test_a_result_is_written_once(tmp_path):
    path = tmp_path / "results" / "a.json"
    ledger.write_once(path, {"first": 1})
    ledger.write_once(path, {"second": 2})
    assert json.loads(path.read_text()) == {"first": 1}
    assert os.listdir(path.parent) == ["a.json"]


def test_digests_tell_apart_what_a_sweep_varies_and_nothing_volatile():
    plain = {"epochs": 3, "quiet": True, "resume": None, "optim": {"lr": 1}}
    same = {"epochs": 3, "quiet": False, "resume": "x", "optim": {"lr": 1.0}}
    assert ledger.digest(plain) == ledger.digest(same)
    others = [plain | {"epochs": 4}, plain | {"threads": 2}]
    told = [ledger.digest(each) for each in (plain, *others)] + [ledger.digest(plain, {"a": 1})]
    assert len(set(told)) == 4
