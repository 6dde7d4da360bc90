"""Every constraint holds after every step, and changes nothing where it held before."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import vmap

from trainlab.optim import constraint
from trainlab.optim.groups import matrices

ALL = {
    "max_norm": (lambda w: constraint.max_norm(w, 0.7), lambda n: n <= 0.7 * (1 + 1e-6)),
    "unit_norm": (constraint.unit_norm, lambda n: (n - 1).abs() < 1e-6),
}


def norms(weight):
    return weight.detach().double().flatten(1).square().sum(1).sqrt()


@pytest.mark.parametrize("name", ALL)
@settings(deadline=None, max_examples=25)
@given(lr=st.floats(1e-3, 30), seed=st.integers(0, 99), momentum=st.sampled_from([0.0, 0.9]))
def test_it_holds_after_every_step(name, lr, seed, momentum):
    constrain, holds = ALL[name]
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    weights = list(matrices(model).values())
    for step in range(8):
        loss = nn.functional.cross_entropy(model(torch.randn(8, 1, 3, 3)), torch.arange(8) % 4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_mul_(weights, constrain(weights))
        assert all(holds(norms(w)).all() for w in weights), step


def test_max_norm_is_torchs_renorm_and_leaves_what_is_small():
    torch.manual_seed(0)
    for shape in ((5, 4), (5, 3, 2, 2)):
        w = torch.randn(shape, dtype=torch.float64) * torch.linspace(0.1, 2, 5).double().view(
            5, *[1] * (len(shape) - 1)
        )
        (factor,) = constraint.max_norm([w], 1.5)
        torch.testing.assert_close(w * factor, w.renorm(2, 0, 1.5), rtol=1e-6, atol=0)
        small = norms(w) <= 1.5
        assert 0 < int(small.sum()) < 5
        assert torch.equal((w * factor)[small], w[small])


def test_weights_that_are_zero_stay_finite():
    w = torch.zeros(3, 4)
    for constrain, _ in ALL.values():
        assert torch.equal(w * constrain([w])[0], w)


@pytest.mark.parametrize("name", ALL)
def test_lifted_over_runs_it_is_the_same_for_each(name):
    constrain = ALL[name][0]
    stacked = [torch.randn(3, 5, 4), torch.randn(3, 2, 2, 2, 2)]
    together = vmap(constrain)(stacked)
    for run in range(3):
        for mine, alone in zip(together, constrain([w[run] for w in stacked]), strict=True):
            torch.testing.assert_close(mine[run], alone)
