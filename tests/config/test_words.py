"""Words whose files are all in use: the checks and the rules."""

import json

import pytest
import yaml

from trainlab.__main__ import main
from trainlab.config import words
from trainlab.config.build import Door

QUICK = ["initial_loss", "init_gain", "penalty", "parameters", "overfit"]
OWN = """
from trainlab.checks import PASS, Verdict
def classes(fresh, least):
    seen = int(fresh().batches(0)[1].unique().numel())
    return Verdict("classes", PASS, f"{seen} classes in a batch, at least {least}")
"""
RUN = ["task=check", "quiet=true", "trust=[own_room]", "hydra.run.dir=run"]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """own(text): a folder of the user's own with the check `classes`, to be run in."""
    (tmp_path / "words" / "check").mkdir(parents=True)
    (tmp_path / "own_room.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)

    def write(text):
        (tmp_path / "words" / "check" / "classes.yaml").write_text(text)
        return ["--config-dir", "words"]

    return write


def test_every_part_of_ours_is_built_and_has_a_place_of_its_own():
    for group in words.PARTS:
        parts = words.parts(group)
        places = [part["place"] for part in parts.values()]
        assert len(parts) > 20 and places == sorted(set(places)), group
    door = Door()
    for word, part in words.parts("check").items():
        assert door(words.node(part)).func.__name__ == word


def test_quick_is_some_of_full_in_the_same_order():
    lists = words.check_lists()
    assert list(lists["quick_checks"]) == QUICK
    assert [word for word in lists["all_checks"] if word in QUICK] == QUICK


@pytest.mark.parametrize("quick", ["true", "false"])
def test_a_check_of_ones_own_is_one_file_of_words(own, tmp_path, quick):
    asked = own(f"_target_: own_room.classes\n_partial_: true\nquick: {quick}\nleast: 1e-3\n")
    assert main([*asked, *RUN, "preflight=quick", "preflight.checks.overfit._partial_=true"]) == 0
    ran = [v["name"] for v in json.loads((tmp_path / "run" / "verdicts.json").read_text())]
    assert ran == [*QUICK, "classes"][: 6 if quick == "true" else 5]
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert list(saved["preflight"]["checks"]) == ran  # what was run is kept


def test_full_runs_ones_own_last_and_takes_its_keys(own, capsys):
    asked = own("_target_: own_room.classes\n_partial_: true\nleast: 1e-3\n")
    line = [*asked, "preflight=full", "trust=[own_room]", "preflight.checks.classes.least=0.5"]
    assert main([*line, "--cfg", "job"]) == 0
    checks = yaml.safe_load(capsys.readouterr().out)["preflight"]["checks"]
    assert list(checks) == [*words.parts("check"), "classes"]
    assert checks["classes"] == {
        "_target_": "own_room.classes", "_partial_": True, "least": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    "text, says",
    [
        ("_target_: [", "classes.yaml"),
        ("", "check/classes.yaml: has no _target_"),
        ("quick: true", "check/classes.yaml: has no _target_"),
        ("_target_: a.b\nplace: first", "check/classes.yaml: place = first: must be such as 0"),
        ("_target_: a.b\nquick: 1", "check/classes.yaml: quick = 1: must be such as false"),
        ("_target_: os.system\n_partial_: true", "preflight.checks.classes._target_ = os.system"),
    ],
)
def test_a_file_that_is_no_check_is_one_line(own, capsys, text, says):
    assert main([*own(text), "preflight=full"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert says in err


@pytest.mark.parametrize("typed", ["check=overfit", "rule=dead_units", "check.overfit=1"])
def test_parts_are_not_chosen_by_their_group(typed, capsys):
    assert main([typed]) == 2
    assert "no setting" in capsys.readouterr().err
