"""Clipping against torch's functions and the paper's equation; the share that was clipped."""

import pytest
import torch
from torch.func import vmap

from trainlab.optim import clip

SHAPES = ((4, 3), (4,), (2, 2, 3, 3))
ALL = [
    lambda g, p: clip.by_norm(g, p, norm=0.5),
    lambda g, p: clip.by_value(g, p, value=0.3),
    lambda g, p: clip.adaptively(g, p, factor=0.2),
]


def some(scale=1.0, runs=(), dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    draw = [torch.randn(*runs, *s, generator=generator, dtype=dtype) for s in SHAPES * 2]
    return [g * scale for g in draw[:3]], draw[3:]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_by_norm_is_torchs(scale):
    grads, params = some(scale)
    mine, share = clip.by_norm(grads, params, norm=0.5)
    for p, g in zip(params, grads, strict=True):
        p.requires_grad_().grad = g.clone()
    total = torch.nn.utils.clip_grad_norm_(params, 0.5)
    torch.testing.assert_close(mine, [p.grad for p in params], rtol=1e-12, atol=0)
    assert float(share) == float(total > 0.5)


def test_by_value_is_torchs():
    grads, params = some()
    mine, share = clip.by_value(grads, params, value=0.3)
    for p, g in zip(params, grads, strict=True):
        p.requires_grad_().grad = g.clone()
    torch.nn.utils.clip_grad_value_(params, 0.3)
    torch.testing.assert_close(mine, [p.grad for p in params], rtol=0, atol=0)
    outside = torch.cat([(g.abs() > 0.3).flatten() for g in grads])
    assert float(share) == pytest.approx(float(outside.double().mean()))
    assert 0 < float(share) < 1


def test_adaptively_is_equation_3_unit_by_unit():
    grads, params = some()
    params[0][1] *= 50  # wide enough for its gradient
    params[2][0] = 0.0  # eps stands in
    mine, share = clip.adaptively(grads, params, factor=0.2)
    clipped = units = 0
    for new, g, w in zip(mine, grads, params, strict=True):
        rows = [(new, g, w)] if g.dim() < 2 else list(zip(new, g, w, strict=True))
        for a, b, c in rows:
            limit = 0.2 * max(float(c.norm()), 1e-3)
            units += 1
            if float(b.norm()) > limit:
                clipped += 1
                torch.testing.assert_close(a, b * limit / b.norm(), rtol=1e-12, atol=0)
            else:
                assert torch.equal(a, b)
    assert 0 < clipped < units
    assert float(share) == pytest.approx(clipped / units)


@pytest.mark.parametrize("function", ALL)
def test_zero_gradients_stay_zero_and_nothing_is_clipped(function):
    grads, params = some(0.0)
    mine, share = function(grads, params)
    assert all(torch.equal(a, b) for a, b in zip(mine, grads, strict=True))
    assert share.shape == ()
    assert float(share) == 0


@pytest.mark.parametrize("function", ALL)
def test_lifted_over_runs_it_is_the_same_for_each(function):
    grads, params = some(runs=(3,))
    grads[0][1] *= 1e-6
    together, shares = vmap(function)(grads, params)
    for run in range(3):
        alone, share = function([g[run] for g in grads], [p[run] for p in params])
        torch.testing.assert_close([g[run] for g in together], alone)
        torch.testing.assert_close(shares[run], share)


@pytest.mark.parametrize("function", ALL)
def test_it_never_waits_for_the_device(function, monkeypatch):
    grads, params = some()
    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__"):

        def wait(self, *args, _name=name, **kwargs):
            raise AssertionError(_name)

        monkeypatch.setattr(torch.Tensor, name, wait)
    function(grads, params)
