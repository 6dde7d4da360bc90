"""The same promises on a CUDA device; skipped where there is none."""

import json

import pytest
import torch

from trainlab.__main__ import main

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
WORDS = [
    "device=cuda",
    "preflight=quick",
    "quiet=true",
    "norm=batch",
    "model.dropout=0.2",
    "optim=adam",
]


def summary(where, *words):
    assert main([*WORDS, f"hydra.run.dir={where}", *words]) == 0
    return json.loads((where / "summary.json").read_text())


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_it_learns(tmp_path, model):
    assert (
        summary(tmp_path / "run", f"model={model}", "epochs=10")["results"]["test"]["accuracy"]
        > 0.9
    )


def test_the_first_weights_are_those_of_the_cpu(tmp_path):
    """Built and drawn on the CPU; one step at lr 0+ keeps them close."""
    words = ["max_steps=1", "optim.lr=1e-12"]
    here = summary(tmp_path / "cuda", *words)["results"]["val"]["loss"]
    there = summary(tmp_path / "cpu", *words, "device=cpu")["results"]["val"]["loss"]
    assert here == pytest.approx(there, rel=1e-4)


def test_watching_changes_no_bit(tmp_path):
    off = summary(tmp_path / "off", "max_steps=100", "probe=none")
    on = summary(tmp_path / "on", "max_steps=100", "probe.every=1")
    assert on["weights_sha256"] == off["weights_sha256"]


def test_data_live_on_the_device():
    from trainlab.data.batches import Batches, Shuffled
    from trainlab.data.preprocess import standardize
    from trainlab.data.sources import digits

    splits = digits().to(torch.device("cuda"))
    preprocess = standardize(splits.train.x, splits.max_value).to(torch.device("cuda"))
    x, y = Batches(splits.train, preprocess, 32, Shuffled(1257, 0))(0)
    assert x.is_cuda
    assert y.is_cuda


def test_resume_goes_on_from_the_saved_step(tmp_path):
    assert (
        main([*WORDS, f"hydra.run.dir={tmp_path}/run", "max_steps=30", "checkpoint.every=30"]) == 0
    )
    assert main([f"resume={tmp_path}/run", "max_steps=60"]) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 60
