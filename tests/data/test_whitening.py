"""pca, whiten, zca and the affine words against NumPy in float64; there and back again."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import trainlab
from trainlab.config import words
from trainlab.config.build import Door
from trainlab.data import whitening
from trainlab.data.batches import Batches
from trainlab.data.preprocess import center_image, center_scalar, scale01, standardize_pixel
from trainlab.data.sources import digits
from trainlab.data.whitening import pca, restored, whiten, zca
from trainlab.errors import CheckpointError, ConfigError, DataError

WORDS = words.groups()["preprocess"]


def fit(word, x, max_value, **keys):
    node = {k.split(".", 1)[1]: v for k, v in words.file_values("preprocess", word).items()}
    return Door()(node | keys)(x, max_value)


def images(n=400, shape=(2, 3, 4), seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=g)


def table(n=400, seed=0, features=6):
    """Correlated features of different scale and place."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(features, features, generator=g) + 2 * torch.eye(features)
    return torch.randn(n, features, generator=g) @ mix + 10 * torch.randn(features, generator=g)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(WORDS), st.booleans(), st.integers(0, 1000))
def test_there_and_back_again(word, is_image, seed):
    """Within 1e-3 of the range of the data, in float32, with every direction kept."""
    x = images(seed=seed) if is_image else table(seed=seed)
    keys = {"share": 1.0} if word == "pca" else {}
    fitted = fit(word, x, 255.0 if is_image else 1.0, **keys)
    z = fitted(x)
    assert tuple(z.shape[1:]) == tuple(fitted.shape(tuple(x.shape[1:])))
    back = fitted.inverse(z)
    assert back.shape == x.shape and back.dtype == torch.float32
    span = float(x.float().max() - x.float().min())
    torch.testing.assert_close(back, x.float(), rtol=0, atol=1e-3 * span)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([whiten, zca]), st.booleans(), st.integers(0, 1000))
def test_whitened_covariance_is_the_identity(word, is_image, seed):
    x = images(seed=seed) if is_image else table(seed=seed)
    z = word(x, 255.0 if is_image else 1.0, eps=1e-8)(x).flatten(1).double()
    cov = (z - z.mean(0)).T @ (z - z.mean(0)) / len(z)
    torch.testing.assert_close(cov, torch.eye(len(cov)).double(), rtol=0, atol=1e-3)
    torch.testing.assert_close(z.mean(0), torch.zeros_like(z.mean(0)), rtol=0, atol=1e-3)


@pytest.mark.parametrize("max_value", [255.0, 100.0])
def test_eps_is_a_variance_in_units_of_the_largest_pixel(max_value):
    x = images()
    values = np.linalg.eigvalsh(np.cov(x.flatten(1).double().numpy().T / max_value, bias=True))
    z = whiten(x, max_value, eps=0.5)(x).double()
    expected = values[::-1] / (values[::-1] + 0.5)
    np.testing.assert_allclose(z.var(0, correction=0).numpy(), expected, rtol=1e-4)


def test_pca_against_scikit_learn():
    sklearn = pytest.importorskip("sklearn.decomposition")
    x = digits().train.x
    flat = x.flatten(1).double().numpy() / 16
    for keys, count in (({"components": 7}, 7), ({"share": 0.9}, 0.9), ({"share": 1.0}, None)):
        reference = sklearn.PCA(count, svd_solver="full").fit(flat)
        expected = reference.transform(flat)
        z = pca(x, 16.0, **keys)(x).numpy()
        used = reference.explained_variance_ > 1e-12  # constant pixels: any direction
        assert z.shape[1] == expected.shape[1] or count is None
        expected = expected[:, used]
        z = z[:, : expected.shape[1]]
        sign = np.sign((z * expected).sum(0))
        np.testing.assert_allclose(z * sign, expected, atol=2e-4)


def test_the_sign_of_a_direction_is_fixed():
    fitted = pca(table(), 1.0, share=1.0)
    largest = fitted.forward.gather(1, fitted.forward.abs().argmax(1, keepdim=True))
    assert (largest > 0).all()


def test_zca_is_symmetric_and_keeps_the_shape():
    x = images()
    fitted = zca(x, 255.0)
    torch.testing.assert_close(fitted.forward, fitted.forward.T)
    assert fitted(x).shape == x.shape


def test_constant_pixels_become_zero():
    x = images()
    x[:, 0, 0] = 9
    for word in (whiten, zca):
        z = word(x, 255.0)(x)
        assert z.isfinite().all()
        assert word is whiten or z[:, 0, 0].abs().max() < 1e-3


@pytest.mark.parametrize("word", [whiten, zca])
def test_more_pixels_than_images(word):
    with pytest.raises(DataError, match="got 24 images of 24 pixels.*train_size >= 25"):
        word(images(24), 255.0)
    word(images(25), 255.0)


def test_too_many_components_or_pixels(monkeypatch):
    with pytest.raises(DataError, match="preprocess.components = 24: 24 images of 24 pixels"):
        pca(images(24), 255.0, components=24)
    assert pca(images(24), 255.0, share=1.0).after == (23,)
    monkeypatch.setattr(whitening, "LARGEST", 23)
    with pytest.raises(DataError, match="24 x 24 pixels"):
        pca(images(), 255.0)


def test_affine_words_against_numpy():
    x = images()
    x[:, 1, 2, 3] = 7  # a constant pixel
    v = x.numpy().astype(np.float64) / 255
    std = v.std(0, keepdims=True)
    std[:, 1, 2, 3] = 1
    mean = v.mean(0, keepdims=True)
    expected = {scale01: v, center_scalar: v - v.mean(), center_image: v - mean,
                standardize_pixel: (v - mean) / std}  # fmt: skip
    for word, values in expected.items():
        np.testing.assert_allclose(word(x, 255.0)(x).numpy(), values, atol=2e-5)
    t = table()
    z = scale01(t, 1.0)(t)
    assert z.min() == pytest.approx(0, abs=1e-5) and z.max() == pytest.approx(1, abs=1e-5)
    t[:, 2] = 3
    assert scale01(t, 1.0)(t)[:, 2].abs().max() < 1e-5


@pytest.mark.parametrize("word", WORDS)
def test_every_word_comes_back_from_its_state(word):
    data = digits()
    fitted = fit(word, data.train.x, data.max_value)
    state = fitted.state()
    again = restored(state) if "forward" in state else type(fitted)(**state)
    assert torch.equal(again(data.train.x), fitted(data.train.x))
    x = fitted.to(torch.device("cpu"), torch.float64)(data.train.x[:100])
    assert x.dtype == torch.float64 and tuple(x.shape[1:]) == fitted.shape(data.shape)
    torch.testing.assert_close(x.float(), fitted(data.train.x[:100]), rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


COMMON = ["max_steps=5", "preflight=none", "probe=none", "quiet=true", "model.widths=[8]"]


@pytest.mark.parametrize("word", ["pca", "zca", "standardize_pixel", "center_scalar"])
def test_a_run_gives_its_preprocessing_back(folder, word):
    where = folder / word
    summary = trainlab.run(*COMMON, f"preprocess={word}", f"hydra.run.dir={where}")
    model, preprocess, _ = trainlab.load(where)
    test = digits().test
    with torch.no_grad():
        hits = (model(preprocess(test.x)).argmax(1) == test.y).double().mean()
    assert float(hits) == pytest.approx(summary["results"]["test"]["accuracy"])
    again = trainlab.run("task=evaluate", f"resume={where}", "quiet=true")
    assert again["results"] == summary["results"]
    if word in ("pca", "zca"):
        (file,) = where.glob("preprocess-*.safetensors")
        data = bytearray(file.read_bytes())
        data[-9] ^= 1
        file.write_bytes(data)
        with pytest.raises(CheckpointError, match="SHA-256"):
            trainlab.load(where)


def test_a_deliberate_mismatch_is_for_validation_and_test_alone(folder):
    """Equal weights after equal steps, and another result on what was not trained on."""
    usual = trainlab.run(*COMMON, f"hydra.run.dir={folder}/same")
    other = trainlab.run(*COMMON, "preprocess.test=none", f"hydra.run.dir={folder}/other")
    assert usual["results"]["train"] == other["results"]["train"]
    for split in ("val", "test"):
        assert usual["results"][split] != other["results"][split]
    again = trainlab.run("task=evaluate", f"resume={folder}/other", "quiet=true")
    assert again["results"] == other["results"]


@pytest.mark.parametrize("word, message", [("stand", "standardize"), ("pca", "keeps the shape")])
def test_a_mismatch_that_cannot_be(folder, word, message):
    with pytest.raises(ConfigError, match=f"preprocess.test = {word}.*{message}"):
        trainlab.run(*COMMON, f"preprocess.test={word}", f"hydra.run.dir={folder}/no-{word}")


def test_augment_gets_the_raw_batch_and_the_step():
    data = digits().train
    seen = []

    def augment(x, y, step):
        seen.append((x.dtype, x.shape, y.dtype, step))
        return x.flip(3), torch.nn.functional.one_hot(y, 10).float()

    fitted = fit("standardize", data.x, 16.0)
    order = lambda epoch: torch.arange(len(data))  # noqa: E731
    x, y = Batches(data, fitted, 32, order, augment=augment)(41)
    plain, labels = Batches(data, fitted, 32, order)(1)
    assert seen == [(torch.uint8, (32, 1, 8, 8), torch.int64, 41)]  # 40 an epoch
    assert torch.equal(x, plain.flip(3)) and torch.equal(y.argmax(1), labels)
