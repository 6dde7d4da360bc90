"""The check passes what fits and warns of what does not, from digits-like images."""

from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from trainlab.checks import PASS, SKIPPED, WARN
from trainlab.checks.init_gain import init_gain
from trainlab.config.build import Door
from trainlab.nn.cnn import cnn
from trainlab.nn.mlp import mlp

CONF = Path(__file__).resolve().parents[2] / "conf"
MODELS = {
    "mlp": mlp,
    "deep": partial(mlp, widths=[64] * 10),
    "cnn": cnn,
}


def words(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def made(group, word, **keys):
    return Door()(yaml.safe_load((CONF / group / f"{word}.yaml").read_text()) | keys)


@pytest.fixture
def verdict(fresh_of, clusters):
    def verdict(activation="relu", init="he_normal", norm="none", model="mlp", place="before", **k):
        def build():
            net = MODELS[model](
                (1, 8, 8), 10, made("activation", activation), made("norm", norm, place=place)
            )
            made("init", init, **k)(net, clusters[0])
            return net

        return init_gain(fresh_of(build))

    return verdict


@pytest.mark.parametrize("model", ["mlp", "cnn"])
@pytest.mark.parametrize("activation", words("activation"))
def test_he_with_the_gain_of_the_activation_passes(verdict, activation, model):
    seen = verdict(activation, model=model)
    assert seen.status == (SKIPPED if activation == "identity" else PASS), seen


@pytest.mark.parametrize("model", ["mlp", "cnn"])
@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("norm", words("norm"))
@pytest.mark.parametrize("init", ["he_normal", "xavier_normal", "torch_default"])
def test_any_norm_layer_passes(verdict, norm, place, model, init):
    """What the norm scales anew, no weights can shrink."""
    if place == "after" and norm in ("none", "weight") or norm == "instance" and model == "mlp":
        return
    if norm in ("none", "weight") and init != "he_normal":
        return
    seen = verdict(init=init, norm=norm, place=place, model=model)
    assert seen.status == PASS, seen


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "elu", "maxout"])
@pytest.mark.parametrize("model", ["mlp", "cnn", "deep"])
@pytest.mark.parametrize("init", ["small_gaussian", "unit_gaussian"])
def test_weights_far_from_the_gain_are_told(verdict, init, model, activation):
    seen = verdict(activation, init, model=model)
    assert seen.status == WARN and "init=he_normal" in seen.advice, seen
    change = "shrinks" if init == "small_gaussian" else "grows"
    if model != "deep":  # where tanh and sigmoid reach their ends, and the signal stays there
        assert f"the signal {change}" in seen.saw


def test_the_text_says_by_how_much_and_what_is_needed(verdict):
    seen = verdict("relu", "lecun_normal", model="deep")
    assert seen.status == WARN
    shrinks, needs, has = (
        float(seen.saw.split(before)[1].split(after)[0])
        for before, after in (("shrinks ", " times"), ("gain ", ","), ("has ", "!"))
    )
    assert shrinks == pytest.approx(2**-0.5, abs=0.08)
    assert needs == pytest.approx(2**0.5, abs=0.12) and has == pytest.approx(1.0, abs=0.08)
    assert verdict("relu", "lecun_normal", model="deep", gain="auto").status == PASS


def test_zeros_and_infinities_are_named(verdict):
    assert "01.relu is 0" in verdict(init="zeros").saw
    assert verdict(init="unit_gaussian", gain=1e30, model="deep").status == WARN


def test_a_model_without_activations_is_skipped_and_nothing_is_left_behind(fresh_of):
    fresh = fresh_of(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    assert init_gain(fresh).status == SKIPPED
    trainer = fresh_of()()
    before = [p.clone() for p in trainer.model.parameters()]
    init_gain(lambda: trainer)
    assert all(map(torch.equal, before, trainer.model.parameters()))
    assert not trainer.model._forward_hooks
