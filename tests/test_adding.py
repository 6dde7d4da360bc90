"""docs/adding.md, word for word: its files are written and its commands run, in a copy."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "adding.md").read_text()
FILES = re.findall(r"^`([\w/.]+)`\n\n```\w+\n(.*?)```$", PAGE, re.M | re.S)
COMMANDS = re.findall(r"^```\npython -m (trainlab .*?)\n```$", PAGE, re.M)


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


def test_the_page_has_what_it_promises():
    assert len(FILES) == 7
    assert len(COMMANDS) == 4


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_trains(copy, command):
    done = run(copy, *shlex.split(command))
    assert done.returncode == 0, done.stderr
    newest = max(copy.glob("runs/*/summary.json"), key=os.path.getmtime)
    summary = json.loads(newest.read_text())
    assert summary["results"]["train"]["loss"] < 2.5


def test_the_words_are_tested_the_moment_they_exist(copy):
    chosen = "builds or resumes or documented"
    words = "tanhshrink or sign or rings"
    done = run(
        copy, "pytest", "-q", "tests/test_catalogue.py", "-k", f"({chosen}) and ({words})",
        "-p", "no:cacheprovider",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(".") >= 9, done.stdout
