"""Losses against torch's own and the papers' equations, what they start from, their floor."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trainlab.checks.tools import floor
from trainlab.errors import ConfigError
from trainlab.nn import loss

K = 7
LOSSES = {
    loss.hinge: K - 1,
    loss.squared_hinge: K - 1,
    loss.mse: 1 / K,
    loss.focal: (1 - 1 / K) ** 2 * math.log(K),
}


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(50, K, generator=generator, dtype=torch.float64)
    return logits, torch.arange(50) % K


def test_hinges_are_torchs_up_to_the_factor_k(batch):
    for power, own in ((1, loss.hinge), (2, loss.squared_hinge)):
        theirs = nn.MultiMarginLoss(p=power, margin=0.7)(*batch) * K
        assert torch.allclose(own(*batch, margin=0.7), theirs, rtol=1e-12)


def test_focal_is_cross_entropy_at_gamma_0_and_the_papers_equation_above(batch):
    logits, y = batch
    assert torch.allclose(loss.focal(*batch, gamma=0.0), F.cross_entropy(*batch), rtol=1e-12)
    p = logits.softmax(1)[range(50), y]
    assert torch.allclose(loss.focal(*batch), -((1 - p) ** 2 * p.log()).mean(), rtol=1e-12)


def test_mse_of_class_numbers_is_that_of_their_one_hot_shares(batch):
    logits, y = batch
    shares = F.one_hot(y, K).double()
    assert torch.equal(loss.mse(logits, y), loss.mse(logits, shares))
    assert torch.allclose(loss.mse(logits, y), F.mse_loss(logits, shares), rtol=1e-12)


@pytest.mark.parametrize("own", LOSSES)
def test_equal_logits_and_floor_are_what_the_docstring_says(own, batch):
    logits, y = batch
    start = float(own(torch.zeros_like(logits), y))
    assert start == pytest.approx(LOSSES[own], rel=1e-12)
    assert floor(own, logits, y) == pytest.approx(0, abs=2e-3)


@pytest.mark.parametrize("own", LOSSES)
def test_the_gradient_is_finite_and_right(own, batch):
    logits, y = batch
    assert torch.autograd.gradcheck(lambda z: own(z, y[:5]), logits[:5].requires_grad_())
    far = torch.full((2, K), -200.0).index_fill(1, torch.tensor([0]), 200.0).requires_grad_()
    own(far, torch.tensor([0, 1])).backward()
    assert far.grad.isfinite().all()


def test_focal_of_a_sure_answer_has_a_gradient_for_gamma_below_1():
    sure = torch.tensor([[200.0, -200.0]]).requires_grad_()
    loss.focal(sure, torch.tensor([0]), gamma=0.5).backward()
    assert sure.grad.isfinite().all()


@pytest.mark.parametrize("own", [loss.hinge, loss.squared_hinge, loss.focal])
def test_shares_of_classes_are_refused_where_they_mean_nothing(own, batch):
    with pytest.raises(ConfigError, match="use loss=cross_entropy or loss=mse"):
        own(batch[0], batch[0].softmax(1))
