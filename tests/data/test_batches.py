"""A batch is a function of the training position: against plain indexing, one run and many."""

import math

import pytest
import torch

from trainlab.data.batches import Batches, Shuffled
from trainlab.data.preprocess import standardize
from trainlab.data.sources import digits


@pytest.fixture(scope="module")
def train():
    return digits().train.take(torch.arange(101))


@pytest.fixture(scope="module")
def fitted(train):
    return standardize(train.x, 16.0)


def test_order_is_a_function_of_seed_and_epoch():
    first = Shuffled(50, 3)(7)
    torch.manual_seed(99)
    assert torch.equal(first, Shuffled(50, 3)(7))
    assert torch.equal(first.sort().values, torch.arange(50))
    assert first.dtype == torch.int64
    others = [Shuffled(50, 3)(8), Shuffled(50, 4)(7), torch.arange(50)]
    assert not any(torch.equal(first, other) for other in others)


def test_batches_equal_plain_indexing(train, fitted):
    batches = Batches(train, fitted, 32, Shuffled(101, 0))
    assert batches.per_epoch == math.ceil(101 / 32)
    for epoch in range(3):
        order = Shuffled(101, 0)(epoch)
        for k in range(4):
            index = order[32 * k : 32 * (k + 1)]
            x, y = batches(epoch * 4 + k)
            assert len(y) == (32 if k < 3 else 5)
            assert x.dtype == torch.float32
            torch.testing.assert_close(x, train.x[index].float() * fitted.scale + fitted.shift)
            assert torch.equal(y, train.y[index])


def test_any_position_equals_iterating_from_zero(train, fitted):
    def fresh():
        return Batches(train, fitted, 32, Shuffled(101, 5))

    iterated = fresh()
    walked = [iterated(step) for step in range(12)]
    jumping = fresh()
    for step in (11, 0, 6, 6, 5, 3):
        for batches in (jumping, fresh()):
            assert all(map(torch.equal, batches(step), walked[step]))


def test_in_order_is_the_file(train, fitted):
    plain = Batches.in_order(train, fitted, 40)
    x, y = (torch.cat(part) for part in zip(*map(plain, range(plain.per_epoch)), strict=True))
    assert torch.equal(y, train.y)
    torch.testing.assert_close(fitted.inverse(x), train.x.float())


@pytest.mark.parametrize("shape", [(3,), (2, 4, 4)])
def test_float64_is_exact_for_tables_and_images(shape):
    x = torch.rand(10, 3) if len(shape) == 1 else torch.randint(0, 256, (10, *shape)).byte()
    fitted = standardize(x, 255.0)
    z = fitted.to(x.device, torch.float64)(x)
    expected = x.double() * fitted.scale.double() + fitted.shift.double()
    torch.testing.assert_close(z, expected, rtol=1e-14, atol=1e-14)


def test_the_data_stay_as_they_were(train, fitted):
    before = train.x.clone(), train.y.clone()
    batches = Batches.in_order(train, fitted, 16)
    for step in range(batches.per_epoch):
        for tensor in batches(step):
            tensor.zero_()
    assert all(map(torch.equal, before, (train.x, train.y)))
