"""Preprocessing against NumPy in float64, its inverse, and that it sees train only."""

import numpy as np
import pytest
import torch

from trainlab.data import preprocess
from trainlab.data.preprocess import Affine, center_channel, none, standardize
from trainlab.data.sources import digits
from trainlab.data.splits import Split

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


@pytest.mark.parametrize("word", WORDS)
def test_fitted_on_train_alone(word):
    data = digits()
    before = word(data.train.x, data.max_value).state()
    for split in (data.val, data.test):
        split.x.fill_(16)
    after = word(data.train.x, data.max_value).state()
    assert all(torch.equal(before[key], after[key]) for key in before)
    train = Split(data.train.x.flip(3), data.train.y)
    train.x[:, :, :4] = 16
    changed = word(train.x, data.max_value).state()
    assert word is none or not torch.equal(before["shift"], changed["shift"])


def test_chunks_do_not_matter():
    x = images()
    mean, std = preprocess.mean_std(x, 255.0, (0, 2, 3))
    small = [preprocess.mean_std(part, 255.0, (0, 2, 3))[0] * len(part) for part in x.split(100)]
    torch.testing.assert_close(mean, sum(small) / len(x))
    assert mean.dtype == std.dtype == torch.float64
