"""Random streams kept apart by purpose, and the state of all global ones."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from trainlab.errors import MachineError
from trainlab.training import randomness


def drawn():
    """One number of each global generator."""
    return [float(torch.rand(())), float(np.random.rand()), random.random()]


def test_each_global_generator_is_a_function_of_seed_and_purpose():
    seen = []
    for seed, purpose in ((1, "dropout"), (2, "dropout"), (1, "order"), (1, "dropout")):
        randomness.seed_everything(seed, purpose)
        seen.append(drawn())
    first, *others, again = seen
    assert again == first
    for generator in range(3):
        assert len({row[generator] for row in (first, *others)}) == 3


def test_initial_weights_have_a_stream_of_their_own():
    def weights(seed, part):
        with randomness.init_stream(seed, part):
            return nn.Linear(3, 2).weight.detach()

    torch.manual_seed(5)
    expected = drawn()[0]
    torch.manual_seed(5)
    first = weights(1, 0)
    assert drawn()[0] == expected  # nothing was taken from the stream outside
    assert torch.equal(first, weights(1, 0))
    assert not torch.equal(first, weights(2, 0)) and not torch.equal(first, weights(1, 1))


def test_every_global_generator_goes_on_where_it_was():
    """Also in the middle of NumPy's block and with a second Gaussian in waiting."""
    randomness.seed_everything(3, "dropout")
    drawn(), np.random.randn(), random.gauss(0, 1)
    tensors, numbers = randomness.random_state()
    tensors = {name: t.clone() for name, t in tensors.items()}
    expected = [np.random.randn(), random.gauss(0, 1), *drawn()]
    randomness.seed_everything(4, "dropout")
    randomness.restore_random_state(tensors, numbers)
    assert [np.random.randn(), random.gauss(0, 1), *drawn()] == expected


@pytest.mark.parametrize("device, there", [("cuda:1", 1), ("cuda:2", 2), ("cuda", 0)])
def test_a_device_that_is_not_there_is_refused(monkeypatch, device, there):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    with pytest.raises(MachineError, match=f"device = {device}: "):
        randomness.join(device, torch.get_num_threads())
