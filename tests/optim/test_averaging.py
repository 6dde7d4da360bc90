"""Averages of the weights against their formulas and torch's own."""

import pytest
import torch
from torch import nn
from torch.optim import swa_utils

from trainlab.optim import averaging


def path(steps):
    generator = torch.Generator().manual_seed(0)
    for step in range(1, steps + 1):
        yield {"w": torch.randn(3, 2, generator=generator, dtype=torch.float64),
               "n": torch.tensor(step)}  # fmt: skip


def test_ema_is_the_bias_corrected_average():
    average = averaging.start({"w": torch.full((3, 2), 99.0).double(), "n": torch.tensor(0)})
    m = torch.zeros(3, 2, dtype=torch.float64)
    for step, weights in enumerate(path(40), 1):
        averaging.Ema(0.9)(average, weights, step)
        m = 0.9 * m + 0.1 * weights["w"]
        torch.testing.assert_close(average["w"], m / (1 - 0.9**step), rtol=1e-12, atol=1e-12)
        assert int(average["n"]) == step


def test_swa_is_the_plain_mean_from_its_beginning_on():
    average, seen = averaging.start(next(path(1))), []
    for step, weights in enumerate(path(20), 1):
        averaging.Swa(20, 0.75)(average, weights, step)
        seen.append(weights["w"])
        expected = seen[-1] if step <= 15 else torch.stack(seen[15:]).mean(0)
        torch.testing.assert_close(average["w"], expected, rtol=1e-12, atol=1e-12)


def test_swa_averages_at_least_the_last_step():
    average = averaging.start(next(path(1)))
    for step, weights in enumerate(path(3), 1):
        averaging.Swa(3, 0.99)(average, weights, step)
    torch.testing.assert_close(average["w"], weights["w"])


def test_swa_is_torchs_averaged_model():
    model = nn.Linear(3, 2)
    theirs = swa_utils.AveragedModel(model)
    average = averaging.start(dict(model.named_parameters()))
    for step in range(1, 9):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        theirs.update_parameters(model)
        averaging.Swa(8, 0.0)(average, dict(model.named_parameters()), step)
    for mine, their in zip(average.values(), theirs.module.parameters(), strict=True):
        torch.testing.assert_close(mine, their.detach())


def test_the_average_is_taken_up_from_its_tensors_alone():
    whole = averaging.start(next(path(1)))
    for step, weights in enumerate(path(30), 1):
        averaging.Ema(0.99)(whole, weights, step)
        if step == 11:
            again = {name: t.clone() for name, t in whole.items()}
        elif step > 11:
            averaging.Ema(0.99)(again, weights, step)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def model_of():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 5), nn.BatchNorm1d(5)
    )


def test_refresh_is_torchs_update_bn():
    batches = [torch.randn(8, 4) for _ in range(5)]
    mine, theirs = model_of(), model_of()
    mine[2].p = theirs[2].p = 0.0
    for each in (mine, theirs):
        each(torch.randn(8, 4))  # statistics that must be forgotten
    mine.eval()
    averaging.refresh(mine, batches)
    swa_utils.update_bn(batches, theirs)
    for a, b in zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)
    assert not any(module.training for module in mine.modules())
    assert mine[1].momentum == 0.1


@pytest.mark.parametrize("frozen", [False, True])
def test_refresh_draws_no_dropout_and_leaves_frozen_norms(frozen):
    model = model_of()
    model[1].requires_grad_(not frozen)
    before, state = model[1].running_mean.clone(), torch.get_rng_state()
    averaging.refresh(model, [torch.ones(8, 4)])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model[1].running_mean, before) is frozen
    assert model[2].training
