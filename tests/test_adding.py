"""docs/adding.md, word for word: its files are written and its commands run, in a copy."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "adding.md").read_text()
FILES = re.findall(r"^`([\w/.]+)`\n\n```\w+\n(.*?)```$", PAGE, re.M | re.S)
BLOCKS = re.findall(r"^```\n(python .*?)\n```$", PAGE, re.M | re.S)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]


def run(where: Path, *words: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(where)}
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", *words],
        cwd=where, env=environment, capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A checkout with the page's files in it."""
    where = tmp_path_factory.mktemp("adding")
    for folder in ("trainlab", "conf", "scripts", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, where / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", where)
    for name, text in FILES:
        path = where / name
        assert not path.exists(), f"{name}: the page must add, not replace"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return where


# every command in one process, which imports torch once; its exit code and the folder it made
EACH = """
import json, shlex, sys
from pathlib import Path

from trainlab.__main__ import main

made = {}
for command in json.loads(sys.argv[1]):
    before = set(Path("runs").glob("*"))
    python, m, package, *words = shlex.split(command)
    assert (python, m, package) == ("python", "-m", "trainlab")
    code = main(words)
    (folder,) = set(Path("runs").glob("*")) - before or {""}
    made[command] = code, str(folder)
Path("made.json").write_text(json.dumps(made))
"""


@pytest.fixture(scope="module")
def folder_of(copy):
    """folder_of(text): the folder of the run of the page's command with this text in it."""
    (copy / "each.py").write_text(EACH)
    done = run(copy, "each", json.dumps(COMMANDS))
    assert done.returncode == 0, done.stdout + done.stderr
    made = json.loads((copy / "made.json").read_text())

    def folder(text: str) -> Path:
        command = next(line for line in COMMANDS if text in f"{line} ")
        code, name = made[command]
        assert code == 0, f"{command}: {done.stderr}"
        return copy / name

    return folder


def of(folder: Path, name: str):
    return json.loads((folder / name).read_text())


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def values(folder: Path, tag: str) -> list[float]:
    """All rows' figures of a tag."""
    return [float(row[tag]) for row in rows(folder) if "step" in row and tag in row]


def statuses(folder: Path, name: str) -> list[str]:
    return [v["status"] for v in of(folder, "verdicts.json") if v["name"] == name]


def findings(folder: Path, name: str) -> list[dict]:
    return [finding for finding in of(folder, "findings.json") if finding["id"] == name]


def test_the_page_shows_every_kind_of_word():
    """One file of every group that takes words of one's own, and a command for each."""
    shown = {Path(name).parent.name for name, _ in FILES if name.endswith(".yaml")}
    assert shown == {
        "activation", "optim", "norm", "init", "schedule", "check", "probe", "fault", "data",
        "metric", "rule",
    }  # fmt: skip
    for name, _ in FILES:
        word, group = Path(name).stem, Path(name).parent.name
        if name.endswith(".yaml") and group not in ("check", "rule"):  # those are all in use
            typed = re.compile(rf"\b{group}=\[?(\w+,)*{word}\b")
            assert any(typed.search(command) for command in COMMANDS), name


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_trains(folder_of, command):
    summary = of(folder_of(f"{command} "), "summary.json")
    assert math.isfinite(summary["results"]["train"]["loss"])


@pytest.mark.parametrize(
    ("command", "layer"),
    [("activation=tanhshrink", "01.tanhshrink"), ("activation=wave", "01.wave")],
)
def test_the_activation_is_a_layer(folder_of, command, layer):
    """Its spread, and its saturated and dead share, in its own name; its gain in the check."""
    folder = folder_of(command)
    assert values(folder, f"activation_std/{layer}")
    assert values(folder, f"activation_saturated/{layer}")
    assert values(folder, f"activation_dead/{layer}")
    assert statuses(folder, "init_gain") == ["PASS"]


def made_by(name: str) -> dict:
    """What a file of the page defines."""
    names: dict = {}
    exec(compile(dict(FILES)[name], name, "exec"), names)
    return names


def test_the_norm_gives_every_sample_one_length():
    torch.manual_seed(0)
    pixel = made_by("trainlab/nn/pixel_norm.py")["pixel"]
    out = pixel(nn.Linear(5, 8), nn.ReLU(), place="after")(torch.randn(16, 5))
    torch.testing.assert_close(out.square().mean(1), torch.ones(16))


def test_the_initialiser_draws_two_values():
    torch.manual_seed(0)
    weight = torch.empty(40, 3, 4, 4)
    made_by("trainlab/nn/signed_constant.py")["signed_constant"](weight)
    assert weight.unique().tolist() == pytest.approx([-(48**-0.5), 48**-0.5])


def test_the_schedule_is_that_of_the_page(folder_of):
    """20 steps, 2 of warm-up, then 1 - sqrt."""
    (curve,) = [r["values"] for r in rows(folder_of("schedule=square_root")) if "curve" in r]
    peak = max(map(float, curve))
    halfway = 1 - math.sqrt(0.5)  # in the middle of what follows the warm-up
    assert float(curve[11]) / peak == pytest.approx(halfway)  # 9 of the 18 steps that follow


def test_the_check_gives_its_verdict(folder_of):
    """Quiet on shuffled data, and the cause among the findings where they are sorted."""
    assert statuses(folder_of("trainlab max_steps=20 "), "one_class") == ["PASS"]
    assert findings(folder_of("trainlab max_steps=20 "), "data.not_shuffled") == []
    spoilt = folder_of("data.order=sorted")
    assert statuses(spoilt, "one_class") == ["WARN"]
    (finding,) = findings(spoilt, "data.not_shuffled")
    assert finding["evidence"].startswith("one_class: 1 classes among 32 samples")


def test_the_probe_writes_its_rows(folder_of):
    """The stable rank of the head's weight (10, 64) is between 1 and 10."""
    folder = folder_of("probe=[activation,gradient,rank]")
    tags = {tag for row in rows(folder) for tag in row if tag.startswith("weight_rank/")}
    assert len(tags) == 3
    assert all(1 <= value <= 10 for value in values(folder, max(tags)))


def test_the_fault_has_a_healthy_twin(folder_of):
    """With the outputs divided by 100 the network cannot do better than a guess."""
    broken = folder_of("fault=loss_temperature")
    losses = [
        of(folder, "summary.json")["results"]["train"]["loss"]
        for folder in (broken, broken / "healthy")
    ]
    assert losses[0] > 2.2 > 1.5 > losses[1]


def test_the_metric_is_followed(folder_of):
    """In the summary of all splits and in the rows; the best weights are those of its least."""
    folder = folder_of("monitor=val/brier")
    results = of(folder, "summary.json")["results"]
    assert all(0 < results[split]["brier"] < 2 for split in ("train", "val", "test"))
    assert results["val"]["brier"] == pytest.approx(min(values(folder, "val/brier")))


def test_the_rule_finds_what_it_is_for(folder_of):
    (finding,) = findings(folder_of("groups.lr="), "optim.uneven")
    assert "hidden1" in finding["layer"]
    assert findings(folder_of("trainlab max_steps=20 "), "optim.uneven") == []


def test_the_words_are_tested_the_moment_they_exist(copy):
    chosen = "builds or resumes or documented"
    words = "tanhshrink or asgd or sign or pixel or truncated_gaussian or signed_constant"
    words += " or square_root or rings"
    done = run(
        copy, "pytest", "-q", "tests/test_catalogue.py", "-k", f"({chosen}) and ({words})",
        "-p", "no:cacheprovider",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(".") >= 24, done.stdout
