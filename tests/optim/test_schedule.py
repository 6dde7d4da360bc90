import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainlab.optim import schedule

ALL = [schedule.constant, schedule.step, schedule.cosine, schedule.warmup_cosine]


@given(st.sampled_from(ALL), st.integers(1, 5000), st.data())
def test_the_factor_stays_in_0_1_at_every_step(function, steps, data):
    step = data.draw(st.integers(0, steps - 1))
    assert 0 <= function(step, steps) <= 1


def test_cosine_is_torchs_cosine_annealing():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40, eta_min=0.1)
    for step in range(40):
        assert schedule.cosine(step, 40, final=0.1) == pytest.approx(
            theirs.get_last_lr()[0], abs=1e-12
        )
        optimizer.step()
        theirs.step()


def test_step_is_torchs_multistep():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [20, 30], gamma=0.1)
    for step in range(40):
        assert schedule.step(step, 40) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        theirs.step()


def test_warm_up_rises_to_1_and_then_falls():
    factors = [schedule.warmup_cosine(step, 100, warmup=0.1) for step in range(100)]
    assert factors[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
