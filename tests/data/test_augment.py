"""Augmentation: against slicing, SciPy and torchvision; every sample its own draw from its own
stream."""

import inspect
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from scipy import ndimage, stats

from trainlab.config import keys, words
from trainlab.config.build import Door
from trainlab.data import augment
from trainlab.data.augment import Draw, apply_augment, label_warnings
from trainlab.errors import ConfigError
from trainlab.training import randomness

WORDS = [word for word in words.groups()["augment"] if word != "none"]
TABLES = {"noise", "mixup"}
MOVES = {"flip", "shift", "pad_crop", "cutout"}  # uint8 stays uint8; so it does in cutmix
MIXES = {"mixup", "cutmix"}


def part(word: str, **values):
    node = OmegaConf.load(words.conf() / "augment" / f"{word}.yaml")
    made = Door()(node)
    return partial(made, **values)


def draw(seed: int = 0, max_value: float = 255.0, classes: int = 4) -> Draw:
    return Draw(torch.Generator().manual_seed(seed), max_value, classes)


def images(n=64, c=3, h=9, w=7, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (n, c, h, w), generator=g).to(torch.uint8)
    return x, torch.arange(n) % 4


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("raw", [torch.uint8, torch.float32])
def test_shape_type_range_and_labels(word, raw):
    x, y = images()
    x, before = x.to(raw), x.to(raw).clone()
    z, t = part(word)(x, y, draw())
    assert torch.equal(x, before)  # the data stay as they were
    assert z.shape == x.shape
    assert z.dtype == (raw if word in MOVES | {"cutmix"} else torch.float32)
    assert z.min() >= 0 and z.max() <= 255
    assert not torch.equal(z.float(), x.float())
    if word in MIXES:
        assert t.shape == (64, 4) and t.dtype == torch.float32
        torch.testing.assert_close(t.sum(1), torch.ones(64))
    else:
        assert torch.equal(t, y) and t.dtype == torch.int64


@pytest.mark.parametrize("word", WORDS)
def test_every_sample_has_its_own_draw(word):
    """The same picture in every place of the batch comes out in many ways (its partner, where there
    is one, is black)."""
    one = images(1)[0]
    x = one.repeat(64, 1, 1, 1)
    x[::2] = 0 if word in MIXES else x[::2]
    z, _ = part(word)(x, torch.arange(64) % 2, draw(1))
    different = {tuple(row.flatten().tolist()) for row in z[1::2]}
    assert len(different) >= (2 if word == "flip" else 8)


@pytest.mark.parametrize("word", WORDS)
def test_a_function_of_seed_and_step_that_touches_no_other_stream(word):
    x, y = images(16)
    step = partial(apply_augment, [part(word), part("noise")], 3, 255.0, 4, x, y)
    torch.manual_seed(5)
    before = randomness.random_state()[0]
    z, t = step(7)
    assert all(torch.equal(v, before[k]) for k, v in randomness.random_state()[0].items())
    torch.manual_seed(99)
    torch.rand(10)
    assert all(map(torch.equal, step(7), (z, t)))
    assert not torch.equal(step(8)[0], z)
    other = apply_augment([part(word), part("noise")], 4, 255.0, 4, x, y, 7)
    assert not torch.equal(other[0], z)


def test_two_words_alike_draw_differently():
    x, y = images(200)
    once = apply_augment([partial(augment.flip, p=0.5)], 0, 255.0, 4, x, y, 0)[0]
    twice = apply_augment([partial(augment.flip, p=0.5)] * 2, 0, 255.0, 4, x, y, 0)[0]
    back = (twice == x).flatten(1).all(1).float().mean()
    assert 0.3 < back < 0.7  # 1 if the second drew the same
    assert not torch.equal(once, twice)


@given(
    pad=st.integers(0, 5), c=st.integers(1, 3), h=st.integers(1, 6), w=st.integers(1, 6),
    seed=st.integers(0, 10**6), raw=st.sampled_from([torch.uint8, torch.float32]),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_a_window_view_equals_slicing(pad, c, h, w, seed, raw):
    x = images(5, c, h, w, seed)[0].to(raw)
    z, _ = augment.pad_crop(x, torch.zeros(5), draw(seed), pad)
    g = draw(seed)
    top, left = (g.integers(5, 0, 2 * pad + 1).tolist() for _ in range(2))
    for i in range(5):
        padded = np.pad(x[i].numpy(), ((0, 0), (pad, pad), (pad, pad)))
        expected = padded[:, top[i] : top[i] + h, left[i] : left[i] + w]
        np.testing.assert_array_equal(z[i].numpy(), expected)


@pytest.mark.parametrize(("fill", "mode"), [("edge", "edge"), ("zero", "constant")])
def test_shift_equals_numpy_padding_and_reaches_every_place(fill, mode):
    x = images(300)[0]
    z, _ = augment.shift(x, torch.zeros(300), draw(2), 2, fill)
    seen = set()
    for before, after in zip(x, z, strict=True):
        padded = np.pad(before.numpy(), ((0, 0), (2, 2), (2, 2)), mode=mode)
        places = [
            (r, c) for r in range(5) for c in range(5)
            if np.array_equal(padded[:, r : r + 9, c : c + 7], after.numpy())
        ]  # fmt: skip
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == 25


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_flip_is_numpys_with_probability_p(p):
    x = images(500)[0]
    z, _ = augment.flip(x, torch.zeros(500), draw(), p)
    mirrored = torch.from_numpy(np.flip(x.numpy(), 3).copy())
    flipped = (z == mirrored).flatten(1).all(1)
    assert ((z == x).flatten(1).all(1) | flipped).all()
    assert abs(flipped.float().mean() - p) < 0.07
    assert p not in (0.0, 1.0) or flipped.float().mean() == p


@pytest.mark.parametrize("degrees", [0.0, 17.0, 90.0, -140.0])
@pytest.mark.parametrize("size", [(8, 8), (9, 13)])
def test_rotation_equals_scipy(degrees, size):
    x = images(2, 1, *size)[0]
    z = augment.rotated(x, torch.full((2,), degrees))
    for before, after in zip(x, z, strict=True):
        expected = ndimage.rotate(
            before[0].numpy().astype(np.float64), degrees,
            reshape=False, order=1, mode="grid-constant",
        )  # fmt: skip
        np.testing.assert_allclose(after[0].numpy(), expected, atol=2e-2)


def test_rotate_stays_within_its_degrees():
    x, y = images(400, 1, 8, 8)
    z, _ = augment.rotate(x, y, draw(3), 10.0)
    angles = draw(3).uniform(400, -10, 10)
    assert angles.abs().max() <= 10 and angles.std() > 5
    torch.testing.assert_close(z, augment.rotated(x, angles).clamp(0, 255))


def test_noise_has_its_std_in_images_and_tables():
    x = torch.full((50, 1, 20, 20), 128, dtype=torch.uint8)
    z, _ = augment.noise(x, torch.zeros(50), draw(), 0.05)
    assert abs((z - 128).std() / 255 - 0.05) < 0.002
    table = torch.randn(2000, 3) * 40
    z, _ = augment.noise(table, torch.zeros(2000), draw(max_value=1.0), 2.5)
    assert abs((z - table).std() - 2.5) < 0.1
    assert z.abs().max() > 1  # tables have no range to stay in


def test_cutout_is_one_square_about_any_pixel():
    x = torch.full((600, 2, 9, 7), 5, dtype=torch.uint8)
    z, _ = augment.cutout(x, torch.zeros(600), draw(), 3)
    gone = z == 0
    assert torch.equal(gone[:, 0], gone[:, 1])
    areas = gone[:, 0].flatten(1).sum(1)
    assert set(areas.tolist()) == {4, 6, 9}  # a corner, an edge, inside
    for mask in gone[:, 0]:
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        assert mask.sum() == rows * columns and max(rows, columns) <= 3
    assert gone[:, 0].any(0).all()


def test_jitter_equals_torchvision():
    from torchvision.transforms import functional

    x, y = images(20, 1, 8, 8)
    z, _ = augment.jitter(x, y, draw(4), 0.4, 0.6)
    g = draw(4)
    light, contrast = g.uniform(20, 0.6, 1.4).tolist(), g.uniform(20, 0.4, 1.6).tolist()
    for before, after, b, c in zip(x, z, light, contrast, strict=True):
        image = functional.adjust_brightness(before.float() / 255, b)
        expected = functional.adjust_contrast(image, c) * 255
        torch.testing.assert_close(after, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_follow_the_beta_law(alpha):
    shares = draw(1).beta(4000, alpha).double().numpy()
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    assert np.isfinite(draw(1).beta(4000, 0.01).numpy()).all()


@pytest.mark.parametrize("table", [False, True])
def test_mixup_blends_pictures_as_labels(table):
    """One-hot samples and one-hot labels: whatever the draw, the blends are the same."""
    y = torch.arange(40) % 4
    x = torch.eye(4)[y]
    z, t = augment.mixup(x if table else x.view(40, 1, 2, 2), y, draw(max_value=1.0), 1.0)
    torch.testing.assert_close(z.view(40, 4), t)
    assert ((t > 0.02) & (t < 0.98)).any(1).float().mean() > 0.4
    again, shares = augment.mixup(z, t, draw(9, max_value=1.0), 1.0)  # of shares
    torch.testing.assert_close(again.view(40, 4), shares)


def test_cutmix_shares_are_areas():
    y = torch.arange(200) % 4
    x = (y[:, None, None, None] * 10 + 1).expand(200, 3, 9, 7).to(torch.uint8).contiguous()
    z, t = augment.cutmix(x, y, draw(), 1.0)
    for k in range(4):
        torch.testing.assert_close((z == k * 10 + 1).float().mean((1, 2, 3)), t[:, k])
    own = t[torch.arange(200), y]
    assert own.min() < 0.3 and own.max() > 0.9
    with_others = z[(own < 1) & (own > 0)] != x[(own < 1) & (own > 0)]
    for mask in with_others[:, 0]:
        assert mask.sum() == mask.any(1).sum() * mask.any(0).sum()  # a box


@pytest.mark.parametrize("word", WORDS)
def test_tables_are_refused_or_meant(word):
    x, y = torch.randn(12, 5), torch.arange(12) % 4
    if word in TABLES:
        z, _ = part(word)(x, y, draw(max_value=1.0))
        assert z.shape == x.shape and not torch.equal(z, x)
    else:
        with pytest.raises(ConfigError, match=rf"augment = {word}: needs images .*augment=noise"):
            part(word)(x, y, draw())


@pytest.mark.parametrize("word", WORDS)
def test_keys_of_the_file_are_those_of_the_function_and_typed(word):
    body = words.file_values("augment", word)
    values = {k.rsplit(".", 1)[1]: v for k, v in body.items() if "._" not in k}
    names = inspect.signature(getattr(augment, word)).parameters
    assert values == {k: p.default for k, p in names.items() if p.default is not p.empty}
    assert all(keys.declared(f"augment.{word}.{key}") for key in values)


def test_what_a_data_set_does_not_vouch_for_is_named():
    splits = SimpleNamespace(name="digits", keeps=("pad_crop", "noise"))
    (line,) = label_warnings(["pad_crop", "flip"], splits)
    assert line == "augment = flip: may change the labels of digits"
    assert label_warnings(["noise"], splits) == []


def ran(tmp_path, *line, steps=45):
    from trainlab import run

    common = ["quiet=true", "preflight=none", "probe=none", f"max_steps={steps}", "log.every=5"]
    return run(*common, f"hydra.run.dir={tmp_path}/{'-'.join(line) or 'none'}", *line)


def test_a_run_is_augmented_in_training_only_and_dropout_stays(tmp_path, monkeypatch):
    """pad_crop by 0 pixels draws and changes nothing: with dropout, bit for bit the run without."""
    plain = ran(tmp_path, "model.dropout=0.3")
    still = ran(tmp_path, "model.dropout=0.3", "augment=pad_crop", "augment.pad_crop.pad=0")
    assert plain["weights_sha256"] == still["weights_sha256"]
    assert plain["results"] == still["results"]
    moved = ran(tmp_path, "model.dropout=0.3", "augment=[pad_crop,flip]")
    assert moved["weights_sha256"] != plain["weights_sha256"]


@pytest.mark.parametrize("word", ["none", *WORDS])
def test_every_word_trains(word, tmp_path):
    result = ran(tmp_path, f"augment={word}", "optim=adam", "optim.lr=0.01", steps=80)
    assert result["results"]["train"]["loss"] < 2.2  # ln 10 is chance; a pad of 4 is hard on 8x8


def test_evaluation_and_preflight_see_the_images_as_they_are():
    from trainlab.cli import compose
    from trainlab.experiment.phases import prepare

    with compose.hydra_session() as hydra:
        cfg = compose.check(hydra, ["augment=[noise,mixup]"]).ours
    bench = prepare(cfg, Door())
    trainer, plain = bench.fresh(), bench.fresh(plain=True)
    (x, y), (px, py) = trainer.batches(3), plain.batches(3)
    assert y.shape == (32, 10) and py.shape == (32,)
    assert not torch.equal(x, px)
    assert all(map(torch.equal, trainer.batches(3), (x, y)))
    assert all(map(torch.equal, trainer.params, plain.params))
    for batches in (trainer.validation, bench.in_order(bench.splits.train)):
        assert batches.augment is None


def test_a_resumed_run_goes_on_with_the_same_draws(tmp_path):
    from trainlab import run

    words = ["augment=[pad_crop,mixup]", "schedule=constant", "model.dropout=0.3"]
    words += ["evaluate.every=10"]
    whole = ran(tmp_path / "whole", *words, steps=40)
    half = ran(tmp_path / "half", *words, steps=20)
    run("quiet=true", f"resume={half['directory']}", "max_steps=40")

    def rows(directory):
        lines = map(json.loads, (Path(directory) / "metrics.jsonl").read_text().splitlines())
        return {r["step"]: (r["train/loss"], r.get("val/loss")) for r in lines if "train/loss" in r}

    expected = rows(whole["directory"])
    assert set(expected) == set(range(5, 41, 5))
    assert rows(half["directory"]) == expected
