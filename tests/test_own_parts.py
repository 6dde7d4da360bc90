"""An activation and a norm of one's own, typed on the command line, are seen like torch's."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = '''
import torch
from torch import nn

from trainlab.nn.norm import block


class Wave(nn.Module):
    def forward(self, x):
        return torch.sin(x)


class Swish(nn.Module):
    """x sigmoid(beta x), Ramachandran et al. 2017."""

    def __init__(self):
        super().__init__()
        self.beta = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return x * torch.sigmoid(self.beta * x)


class Squash(nn.Module):
    """tanh, which no table knows by this name."""

    def forward(self, x):
        return 1 - 2 / (1 + (2 * x).clamp(-60, 60).exp())


class Centred(nn.Module):
    """No "norm" in the name, and a gain of two dims."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, width))

    def forward(self, x):
        x = x - x.mean(1, keepdim=True)
        return x / (x.square().mean(1, keepdim=True) + 1e-5).sqrt() * self.weight


def centred(layer, activation=None, place="before"):
    return block(layer, Centred(len(layer.weight)), activation, place)
'''
WORDS = {
    "activation/wave": "_target_: private.parts.Wave",
    "activation/swish": "_target_: private.parts.Swish",
    "activation/squash": "_target_: private.parts.Squash",
    "norm/centred": "_target_: private.parts.centred\nplace: before",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    where = tmp_path_factory.mktemp("own")
    for word, text in WORDS.items():
        path = where / "mine" / f"{word}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# mine\n{text}\n_partial_: true\n")
    (where / "private").mkdir()
    (where / "private" / "parts.py").write_text(PARTS)
    return where


def run(home, name, *words):
    """A short run; its rows joined, its verdicts and its findings by name."""
    typed = ["--config-dir", "mine", "trust=[private]", *words, f"hydra.run.dir={name}"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "trainlab", *typed, "quiet=true"],
        cwd=home, env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{home}"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows, folder = {}, home / name
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "step" in row and "histogram" not in row:
            rows |= row
    found = json.loads((folder / "findings.json").read_text())
    checks = folder / "verdicts.json"
    verdicts = json.loads(checks.read_text()) if checks.exists() else []
    return rows, {v["name"]: v for v in verdicts}, {f["id"]: f for f in found}


@pytest.mark.parametrize(("word", "sides", "gain"), [("wave", 0, 1.52), ("swish", 1, 1.68)])
def test_an_activation_of_ones_own_is_a_layer(home, word, sides, gain):
    """gain: 1 / sqrt(E f(z)^2), z ~ N(0, 1); of sin it is sqrt(2 / (1 - exp(-2)))."""
    words = f"activation={word}", "epochs=1", "preflight=quick"
    rows, verdicts, _ = run(home, word, *words)
    layers = [tag.partition("/")[2] for tag in rows if tag.startswith("activation_std/")]
    assert layers == [f"01.{word}", f"02.{word}", "03.logits"]
    for layer in layers[:2]:
        assert rows[f"activation_flat_sides/{layer}"] == sides
        assert 0 < rows[f"activation_saturated/{layer}"] < 0.5
        assert rows[f"activation_dead/{layer}"] == 0
        assert math.isfinite(rows[f"gradient_norm/{layer}"])
    said = verdicts["init_gain"]
    assert said["status"] == "PASS" and f"{word} needs gain" in said["saw"]
    assert float(said["saw"].split("gain ")[1].split(",")[0]) == pytest.approx(gain, rel=0.15)


def test_the_saturation_of_an_activation_that_no_table_knows_is_found(home):
    """Under its own name: weights of N(0, 1) make inputs of rms 8 and more."""
    words = "activation=squash", "init=unit_gaussian", "max_steps=60", "probe.every=10"
    _, _, found = run(home, "squash", *words, "preflight=none")
    seen = found["act.saturated"]
    assert seen["layer"] in ("01.squash", "02.squash") and "of squash is flat" in seen["evidence"]


def test_a_norm_of_ones_own_does_not_decay_and_counts_as_one(home):
    words = "norm=centred", "max_steps=5", "optim.weight_decay=0.1", "preflight=quick"
    rows, verdicts, _ = run(home, "norm", *words)
    assert verdicts["init_gain"]["saw"].startswith("2 norm layers")
    ratios = [tag for tag in rows if tag.startswith("update_ratio/")]
    assert len(ratios) == 3 and not any("norm" in tag for tag in ratios)


def test_a_stack_of_runs_sees_them_too(home):
    words = "activation=swish", "seed=0,1", "max_steps=5", "preflight=none", "hydra/launcher=stack"
    typed = ["--config-dir", "mine", "trust=[private]", "-m", *words, "hydra.sweep.dir=sweep"]
    done = subprocess.run(
        [sys.executable, "-m", "trainlab", *typed, "quiet=true"],
        cwd=home, env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{home}"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    runs = [p for p in (home / "sweep").glob("*/metrics.jsonl") if "mean" not in p.parent.name]
    assert len(runs) == 2
    for rows in runs:
        assert '"activation_saturated/01.swish"' in rows.read_text(), rows
