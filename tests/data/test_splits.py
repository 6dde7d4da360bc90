"""Splits are stratified exactly, and what training would trip over is refused in one line."""

from dataclasses import replace

import pytest
import torch

from trainlab.data.sources import digits
from trainlab.data.splits import Split, Splits, stratified
from trainlab.errors import DataError


def tables(n=6, classes=3, **changes):
    """A healthy set of float tables, to damage one thing at a time."""

    def part():
        return Split(torch.rand(n, 2), torch.arange(n) % classes)

    names = tuple("abcdefgh"[:classes])
    return replace(Splits(part(), part(), part(), names, 1.0, "toy"), **changes)


def labelled(*labels, x=None):
    y = torch.tensor(labels, dtype=torch.int64)
    return Split(torch.rand(len(y), 2) if x is None else x, y)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "counts, sizes",
    [
        ([178, 182, 177, 183, 181, 182, 181, 179, 174, 180], (1257, 180, 360)),
        ([1, 1, 1, 7, 90], (50, 30, 20)),
        ([5, 3, 3, 3, 3], (5, 6, 6)),
        ([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949], (55000, 5000, 0)),
    ],
)
def test_stratified_is_exact(counts, sizes, seed):
    y = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    parts = stratified(y, sizes, seed)
    assert tuple(map(len, parts)) == sizes
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(len(y)))
    for part, size in zip(parts, sizes, strict=True):
        share = torch.tensor(counts).double() * size / len(y)
        assert ((y[part].bincount(minlength=len(counts)) - share).abs() <= 1).all()


def test_stratified_depends_on_the_seed_alone():
    y = torch.arange(100) % 4
    torch.manual_seed(1)
    first = stratified(y, (60, 20, 20), 0)
    torch.manual_seed(2)
    assert all(map(torch.equal, first, stratified(y, (60, 20, 20), 0)))
    assert not torch.equal(first[0], stratified(y, (60, 20, 20), 1)[0])


def test_stratified_refuses_sizes_that_do_not_add_up():
    with pytest.raises(DataError, match="add up to the 10 samples"):
        stratified(torch.zeros(10, dtype=torch.int64), (5, 5, 5), 0)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda: tables(val=labelled(0, 1, 3)), "val sample 2 has label 3; labels must be 0 to 2"),
        (lambda: tables(test=labelled(0, -100)), "test sample 1 has label -100; labels must be 0"),
        (lambda: tables(val=labelled()), "toy: val is empty"),
        (lambda: tables(train=labelled(0, 2, 0)), "class b has no training sample"),
        (lambda: labelled(0, 1, x=torch.rand(3, 2)), "3 samples but 2 labels"),
        (
            lambda: tables(test=labelled(0, x=torch.tensor([[1.0, float("nan")]]))),
            "test sample 0 feature 1 is nan",
        ),
        (
            lambda: tables(val=labelled(0, 1, x=torch.tensor([[1.0, 2.0], [float("inf"), 1.0]]))),
            "val sample 1 feature 0 is inf",
        ),
        (lambda: tables(val=labelled(0, x=torch.rand(1, 3))), r"val has samples \(3,\)"),
        (lambda: tables(val=labelled(0, x=torch.rand(1, 2).double())), "torch.float64"),
        (lambda: tables(max_value=0.0), "max_value 0.0"),
    ],
)
def test_bad_data_is_refused_in_one_line(damage, message):
    with pytest.raises(DataError, match=message) as caught:
        damage()
    assert "\n" not in str(caught.value)


def test_digest_sees_pixels_labels_classes_and_the_largest_value():
    data = digits()
    assert data.digest() == digits().digest() != digits(split_seed=1).digest()
    x, y = data.train.x.clone(), data.train.y.clone()
    x[3, 0, 4, 4] += 1
    y[[0, 1]] = (y[[0, 1]] + 1) % 10
    others = [
        replace(data, train=Split(x, data.train.y)),
        replace(data, train=Split(data.train.x, y)),
        replace(data, classes=tuple("abcdefghij")),
        replace(data, max_value=15.0),
    ]
    assert len({data.digest(), *(other.digest() for other in others)}) == 5
    assert data.to("cpu").digest() == data.digest()
