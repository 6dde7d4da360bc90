"""The options of every data set: exact shares, folds that partition, test never touched."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainlab.config import keys
from trainlab.data import options
from trainlab.data.options import apply_options
from trainlab.data.sources import digits
from trainlab.data.splits import Split, Splits
from trainlab.errors import ConfigError

DIGITS = digits()


def rows(split):
    """Every sample with its label, sorted: what a split holds, whatever its order."""
    both = torch.cat([split.x.flatten(1).double(), split.y[:, None].double()], 1)
    return both[torch.tensor(sorted(range(len(both)), key=lambda i: both[i].tolist()))]


def same(a, b):
    return torch.equal(a.x, b.x) and torch.equal(a.y, b.y)


def table(counts, seed=0):
    """Tables with so many training samples of each class; x counts the samples."""
    y = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))]
    x = torch.arange(len(y) * 3.0).view(-1, 3)
    small = Split(-1 - torch.arange(3.0 * len(counts)).view(-1, 3), torch.arange(len(counts)))
    names = tuple(f"c{k}" for k in range(len(counts)))
    return Splits(Split(x, y), small, small, names, 1.0, "toy", columns=("a", "b", "c"))


def test_own_keys_hold_every_option_at_its_default():
    import inspect

    parameters = inspect.signature(apply_options).parameters
    asked = {name: p.default for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    owned = {name: rule.default for name, rule in keys.OWN_KEYS.items() if name.startswith("data.")}
    assert owned == {f"data.{name}": value for name, value in asked.items()}
    untouched = apply_options(DIGITS, 0, **asked)
    assert untouched.digest() == DIGITS.digest()


def test_digits_are_what_they_were():
    """The default run's data, to the bit."""
    known = "eb98ee6a861b71cc2f943d26ccac6bfc98a2d87861bb912c27f9539bfe67e3ee"
    assert DIGITS.digest() == known


@settings(max_examples=25, deadline=None)
@given(st.floats(0.001, 1), st.integers(0, 9), st.integers(2, 6))
def test_label_noise_is_exact(share, seed, classes):
    y = torch.arange(300) % classes
    noisy = options.mislabelled(y, classes, share, seed)
    assert int((noisy != y).sum()) == round(share * 300)
    assert noisy.min() >= 0 and noisy.max() < classes
    assert torch.equal(noisy, options.mislabelled(y, classes, share, seed))


def test_label_noise_is_uniform_over_the_others_and_in_train_alone():
    data = apply_options(DIGITS, 0, label_noise=0.5)
    assert same(data.val, DIGITS.val) and same(data.test, DIGITS.test)
    assert torch.equal(data.train.x, DIGITS.train.x)
    y = torch.zeros(90_000, dtype=torch.int64)
    counts = options.mislabelled(y, 10, 1.0, 0).bincount(minlength=10)
    assert counts[0] == 0 and (counts[1:] - 10_000).abs().max() < 500  # 5 standard deviations


@settings(max_examples=25, deadline=None)
@given(st.floats(0.01, 0.99), st.lists(st.integers(60, 200), min_size=2, max_size=6))
def test_imbalance_is_the_profile_of_cao(ratio, counts):
    data = table(counts)
    kept = options.imbalanced(data.train.y, len(counts), ratio, 0)
    sizes = data.train.y[kept].bincount(minlength=len(counts)).double()
    share = ratio ** (torch.arange(len(counts)).double() / (len(counts) - 1))
    n = min(count / s for count, s in zip(counts, share.tolist(), strict=True))
    expected = n * share  # n_k = n mu^k, and the largest n that every class allows
    assert ((sizes <= expected + 1e-6) & (sizes > expected - 1)).logical_or(sizes == 1).all()
    assert len(kept.unique()) == len(kept)


def test_imbalance_against_the_code_of_the_paper():
    """50,000 samples of 10 classes at 0.01: 5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50."""
    y = torch.arange(10).repeat_interleave(5000)
    sizes = y[options.imbalanced(y, 10, 0.01, 0)].bincount()
    assert sizes.tolist() == [int(5000 * 0.01 ** (k / 9)) for k in range(9)] + [50]


def test_the_rarest_class_keeps_one_sample_where_its_share_is_less():
    y = torch.arange(3).repeat_interleave(20)  # 20, 0.2 and 0.002 samples
    assert y[options.imbalanced(y, 3, 1e-4, 0)].bincount(minlength=3).tolist() == [20, 1, 1]


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(0, 5))
def test_folds_partition_what_is_trained_and_validated_on(folds, seed):
    data = table([17, 30, 9])
    parts = [apply_options(data, seed, fold=k, folds=folds) for k in range(folds)]
    whole = rows(options._train_and_val(data))
    validated = [part.val for part in parts]
    joint = Split(torch.cat([v.x for v in validated]), torch.cat([v.y for v in validated]))
    assert torch.equal(rows(joint), whole)
    for part in parts:
        assert torch.equal(rows(options._train_and_val(part)), whole)
        assert same(part.test, data.test)
        assert abs(len(part.val) - len(whole) / folds) < 1


def test_val_fraction_keeps_the_test_split():
    data = apply_options(DIGITS, 0, val_fraction=0.25)
    assert [len(part) for part in data.parts().values()] == [1437 - 359, 359, 360]
    assert same(data.test, DIGITS.test)
    assert torch.equal(rows(options._train_and_val(data)), rows(options._train_and_val(DIGITS)))


def test_train_size_is_stratified():
    data = apply_options(DIGITS, 0, train_size=100)
    assert data.train.y.bincount().sub(10).abs().max() <= 1 and len(data.train) == 100
    other = apply_options(DIGITS, 1, train_size=100)
    assert not same(data.train, other.train)


@pytest.mark.parametrize("wanted", [["3", "5"], ["5", "3"]])
def test_classes_are_numbered_anew(wanted):
    data = apply_options(DIGITS, 0, classes=wanted)
    assert data.classes == ("3", "5")
    for mine, all_of in zip(data.parts().values(), DIGITS.parts().values(), strict=True):
        where = (all_of.y == 3) | (all_of.y == 5)
        assert torch.equal(mine.x, all_of.x[where])
        assert torch.equal(mine.y, (all_of.y[where] == 5).long())


def test_features_by_name_or_number():
    data = table([9, 9])
    for wanted in (["c", "a"], ["2", "0"], ["a", "2"]):
        picked = apply_options(data, 0, features=wanted)
        assert picked.columns == ("a", "c")
        assert torch.equal(picked.train.x, data.train.x[:, [0, 2]])
    nameless = replace(data, columns=())
    assert apply_options(nameless, 0, features=["1"]).shape == (1,)


def test_sorted_is_by_label():
    data = apply_options(DIGITS, 0, order="sorted")
    assert torch.equal(data.train.y, DIGITS.train.y.sort().values)
    assert torch.equal(rows(data.train), rows(DIGITS.train))


def test_options_together():
    data = apply_options(
        DIGITS, 3, classes=["0", "1", "7"], fold=1, imbalance=0.1, train_size=60, label_noise=0.25
    )
    clean = apply_options(DIGITS, 3, classes=["0", "1", "7"], fold=1, imbalance=0.1, train_size=60)
    assert len(data.train) == 60
    assert int((data.train.y != clean.train.y).sum()) == 15
    assert clean.train.y.bincount()[2] < clean.train.y.bincount()[0] / 5


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"train_size": 1258}, "data.train_size = 1258: there are 1257"),
        ({"classes": ["3"]}, r"data.classes = \[3\]: must be 2 or more"),
        ({"classes": ["3", "3"]}, "2 or more different"),
        ({"classes": ["3", "cat"]}, "cat is not one of 0, 1, 2"),
        ({"classes": ["3", "10"]}, "or numbers 0 to 9"),
        ({"features": ["3"]}, "data=digits has images"),
        ({"fold": 5}, "data.fold = 5: must be 0 to 4"),
        ({"fold": 1, "val_fraction": 0.1}, "leave data.val_fraction out"),
        ({"val_fraction": 1e-6}, "leave a split empty"),
    ],
)
def test_what_the_data_do_not_allow(asked, message):
    with pytest.raises(ConfigError, match=message):
        apply_options(DIGITS, 0, **asked)


def bench_of(*overrides):
    from trainlab.cli import compose
    from trainlab.config.build import Door
    from trainlab.experiment.phases import prepare

    with compose.hydra_session() as hydra:
        return prepare(compose.check(hydra, overrides).ours, Door())


def test_sorted_trains_on_one_class_after_the_other():
    bench = bench_of("data.order=sorted", "data.train_size=200", "batch_size=20")
    batches = bench.fresh().batches
    for epoch in range(2):
        seen = torch.cat([batches(epoch * 10 + step)[1] for step in range(10)])
        assert torch.equal(seen, bench.splits.train.y) and torch.equal(seen, seen.sort().values)


def test_options_are_no_keywords_of_the_sources():
    bench = bench_of(
        "data=wine", "data.features=[hue,alcohol]", "data.classes=[0,2]", "data.fold=0"
    )
    assert bench.splits.columns == ("alcohol", "hue")
    assert bench.shape == (2,) and bench.splits.classes == ("cultivar_1", "cultivar_3")
    assert len(bench.splits.val) == 17  # a fifth of 83
    assert bench.fresh().model(torch.zeros(4, 2)).shape == (4, 2)


def test_the_network_gets_what_the_preprocessing_gives():
    bench = bench_of("preprocess=pca", "preprocess.components=7")
    assert bench.shape == (7,) and bench.splits.shape == (1, 8, 8)
    assert bench.fresh().batches(0)[0].shape == (32, 7)
