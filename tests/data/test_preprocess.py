"""Preprocessing against NumPy in float64, its inverse, and that a run fits it to the training split
alone: every word of conf/preprocess, also as preprocess.test."""

import numpy as np
import pytest
import torch
from benches import bench_of
from omegaconf import OmegaConf

from trainlab.config import words
from trainlab.config.build import Door
from trainlab.data import preprocess
from trainlab.data.preprocess import Affine, center_channel, none, standardize
from trainlab.data.splits import Split, Splits

WORDS = [none, center_channel, standardize]


def images():
    return torch.randint(0, 256, (700, 3, 5, 4), dtype=torch.uint8)


def table():
    return torch.randn(700, 6) * torch.tensor([1.0, 10.0, 0.1, 5.0, 1.0, 2.0]) + 300


@pytest.mark.parametrize("make, axes, max_value", [(images, (0, 2, 3), 255.0), (table, 0, 1.0)])
def test_statistics_against_numpy(make, axes, max_value):
    x = make()
    reference = x.numpy().astype(np.float64) / max_value
    mean, std = (f(axis=axes, keepdims=True) for f in (reference.mean, reference.std))
    expected = {
        none: reference * max_value,
        center_channel: reference - mean,
        standardize: (reference - mean) / std,
    }
    for word, values in expected.items():
        z = word(x, max_value)(x)
        assert z.dtype == torch.float32
        np.testing.assert_allclose(z.numpy(), values, rtol=1e-4, atol=1e-3)


def test_bright_bytes_do_not_overflow():
    x = torch.full((600, 1, 8, 8), 255, dtype=torch.uint8)
    x[0] = 254
    fitted = standardize(x, 255.0)
    assert fitted(x[1:2]).abs().max() < 0.1
    assert fitted(x[:1]).mean().item() == pytest.approx(-(599**0.5), rel=1e-3)


@pytest.mark.parametrize("x", [torch.full((700, 2), 0.1), torch.full((9, 2, 3, 3), 7).byte()])
def test_a_constant_feature_becomes_zero(x):
    fitted = standardize(x, 1.0)
    assert torch.equal(fitted.scale, torch.ones_like(fitted.scale))
    assert fitted(x).abs().max() < 1e-6


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("make, max_value", [(images, 255.0), (table, 1.0)])
def test_inverse_and_state(word, make, max_value):
    x = make()
    fitted = word(x, max_value)
    torch.testing.assert_close(fitted.inverse(fitted(x)), x.float(), rtol=1e-5, atol=2e-3)
    again = Affine(**fitted.state())
    assert all(value.dtype == torch.float32 for value in fitted.state().values())
    assert torch.equal(again(x), fitted(x))
    laid_out = fitted.expand(x.shape[1:])
    assert laid_out.scale.shape == x.shape[1:]
    assert torch.equal(laid_out(x), fitted(x))
    assert fitted.to("cpu", torch.float64)(x).dtype == torch.float64


def pictures():
    """Three splits of 90 pictures (2, 3, 3), of which no two have a statistic in common."""
    ranges = (0, 120), (100, 256), (30, 60)
    return splits([torch.randint(*each, (90, 2, 3, 3), dtype=torch.uint8) for each in ranges], 255)


def tables():
    """The same of 90 rows (5,) with correlated columns."""
    mix = torch.randn(5, 5) + 2 * torch.eye(5)
    places = (1.0, 0.0), (3.0, 10.0), (0.5, -20.0)
    return splits([torch.randn(90, 5) @ mix * scale + place for scale, place in places], 1)


def splits(parts, max_value):
    parts = [Split(x, torch.arange(90) % 2) for x in parts]
    return Splits(*parts, ("a", "b"), float(max_value), "made")


def node_of(word):
    node = OmegaConf.load(words.conf() / "preprocess" / f"{word}.yaml")
    return OmegaConf.create({"preprocess": node})["preprocess"]


def same(fitted, word, x, max_value):
    """Whether `fitted` is this word fitted to x, to the last bit."""
    own, other = fitted.state(), Door()(node_of(word))(x, max_value).state()
    return own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)


@pytest.mark.parametrize("make", [pictures, tables])
@pytest.mark.parametrize("word", words.groups()["preprocess"])
def test_every_word_is_fitted_on_the_training_split_alone(word, make):
    data = make()
    usual, judged = preprocess.fit(Door(), node_of(word), {"test": None}, data)
    for fitted in (usual, judged):
        assert same(fitted, word, data.train.x, data.max_value)
    if word == "none" or (word == "scale01" and make is pictures):
        return  # these look at no sample
    both = torch.cat([data.train.x, data.val.x])
    for x in (data.val.x, data.test.x, both):  # or the lines above could not fail
        assert not same(usual, word, x, data.max_value)


@pytest.mark.parametrize("word", words.groups()["preprocess"])
def test_every_word_of_a_mismatch_is_fitted_on_the_training_split_too(word):
    data = tables()
    usual = "pca" if word == "pca" else "none"  # pca alone may change the width of a table
    fitted, judged = preprocess.fit(Door(), node_of(usual), {"test": word}, data)
    assert same(fitted, usual, data.train.x, 1.0)
    assert same(judged, word, data.train.x, 1.0)
    both = torch.cat([data.train.x, data.val.x])
    for x in (data.val.x, data.test.x, both):
        assert word == "none" or not same(judged, word, x, 1.0)


@pytest.mark.parametrize("word", words.groups()["preprocess"])
def test_a_run_preprocesses_by_its_training_split_alone(word):
    """With the options of the data applied first: what is trained on are 900 digits."""
    usual = "standardize" if word in ("pca", "whiten") else word
    for typed, judged in ((f"preprocess={word}", word), (f"preprocess.test={usual}", usual)):
        bench = bench_of("data.train_size=900", typed)
        x = bench.splits.train.x
        assert len(x) == 900
        assert same(bench.eval_preprocess, judged, x, 16.0)
        if typed == f"preprocess={word}":
            assert same(bench.preprocess, word, x, 16.0)


def test_chunks_do_not_matter():
    x = images()
    mean, std = preprocess.mean_std(x, 255.0, (0, 2, 3))
    small = [preprocess.mean_std(part, 255.0, (0, 2, 3))[0] * len(part) for part in x.split(100)]
    torch.testing.assert_close(mean, sum(small) / len(x))
    assert mean.dtype == std.dtype == torch.float64
