"""Tables against scikit-learn; toys against their equations."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import trainlab
from trainlab.config import words
from trainlab.config.build import Door
from trainlab.data import sources
from trainlab.data.sources import blobs, breast_cancer, spirals, two_moons, wine
from trainlab.errors import DataError

TOYS = [spirals, blobs, two_moons]


def together(data):
    """x (N, F), y (N,) of all splits."""
    parts = data.parts().values()
    return torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts])


def script():
    path = Path(__file__).parents[2] / "scripts" / "build_tables.py"
    spec = importlib.util.spec_from_file_location("build_tables", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["wine", "breast_cancer"])
def test_shipped_tables_equal_scikit_learn(name, tmp_path):
    pytest.importorskip("sklearn")
    build = script()
    with np.load(sources.FILES / f"{name}.npz", allow_pickle=False) as shipped:
        for key, values in build.arrays(name).items():
            assert shipped[key].dtype == values.dtype
            np.testing.assert_array_equal(shipped[key], values)
    again = tmp_path / "again"
    again.mkdir()
    assert build.build(name, tmp_path) == build.build(name, again)


@pytest.mark.parametrize(
    "word, sizes, shape, counts",
    [
        (wine, [124, 18, 36], (13,), [59, 71, 48]),
        (breast_cancer, [398, 57, 114], (30,), [212, 357]),
    ],
)
def test_tables(word, sizes, shape, counts):
    data = word()
    assert [len(part) for part in data.parts().values()] == sizes
    assert data.shape == shape and len(data.columns) == shape[0]
    assert data.keeps == ("noise", "mixup")
    x, y = together(data)
    assert y.bincount().tolist() == counts
    assert len(x.unique(dim=0)) == len(x)
    assert data.digest() == word().digest() != word(split_seed=1).digest()


@pytest.mark.parametrize("word", TOYS)
def test_toys(word):
    data = word(samples=101)
    assert [len(part) for part in data.parts().values()] == [71, 10, 20]
    _, y = together(data)
    counts = y.bincount()
    assert counts.max() - counts.min() <= 1
    assert data.shape == (2,) and data.train.x.dtype == torch.float32
    torch.manual_seed(7)
    assert data.digest() == word(samples=101).digest()
    assert data.digest() != word(samples=101, split_seed=1).digest()
    with pytest.raises(DataError, match="too few"):
        word(samples=4)


def test_two_moons_without_noise_are_scikit_learns():
    datasets = pytest.importorskip("sklearn.datasets")
    reference, labels = datasets.make_moons(200, shuffle=False, noise=None)
    x, y = together(two_moons(samples=200, noise=0.0))
    for k in (0, 1):
        mine, theirs = x[y == k].double().numpy(), reference[labels == k]
        mine = mine[mine[:, 0].argsort()]
        np.testing.assert_allclose(mine, theirs[theirs[:, 0].argsort()], atol=1e-6)


def test_spirals_without_noise_lie_on_their_arms():
    x, y = together(spirals(samples=300, groups=4, turns=0.5, noise=0.0))
    r = x.double().norm(dim=1)
    assert r.max() == pytest.approx(1) and r.min() < 1e-6
    angle = 2 * math.pi * (0.5 * r + y / 4)
    expected = torch.stack([r * angle.sin(), r * angle.cos()], 1)
    torch.testing.assert_close(x.double(), expected, rtol=0, atol=1e-5)


def test_blobs_have_their_centres_and_spread():
    x, y = together(blobs(samples=20_000, groups=5, spread=3.0, noise=0.5))
    for k in range(5):
        centre = 3 * torch.tensor([math.cos(2 * math.pi * k / 5), math.sin(2 * math.pi * k / 5)])
        torch.testing.assert_close(x[y == k].mean(0), centre, rtol=0, atol=0.05)
        torch.testing.assert_close(x[y == k].std(0), torch.tensor([0.5, 0.5]), rtol=0, atol=0.03)


@pytest.mark.parametrize("word", ["wine", "breast_cancer", "spirals", "blobs", "two_moons"])
def test_the_word_is_what_the_function_gives_by_default(word):
    node = {k.split(".", 1)[1]: v for k, v in words.file_values("data", word).items()}
    data = Door()(node)
    module = (
        sources if hasattr(sources, word) else __import__("trainlab.data.sources", fromlist=["x"])
    )
    assert data.digest() == getattr(module, word)().digest()


@pytest.mark.parametrize(
    "overrides, least",
    [(["data=wine"], 0.9), (["data=two_moons"], 0.9), (["data=spirals", "epochs=60"], 0.8)],
)
def test_a_small_network_learns_it(tmp_path, overrides, least):
    words = ["preflight=none", "probe=none", "quiet=true", f"hydra.run.dir={tmp_path}/run"]
    summary = trainlab.run(*overrides, *words)
    assert summary["results"]["test"]["accuracy"] >= least
