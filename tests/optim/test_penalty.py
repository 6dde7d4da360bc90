import pytest
import torch

from trainlab.optim import penalty


def test_l2_equals_sgd_weight_decay():
    """Fifty steps with the penalty in the loss and with SGD's weight_decay end in the same
    weights."""
    ends = []
    for strength, decay in ((0.03, 0.0), (0.0, 0.03)):
        w = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([w], lr=0.1, weight_decay=decay)
        for _ in range(50):
            optimizer.zero_grad()
            ((w - 3).abs().sum() + penalty.Elastic(l2=strength)([w])).backward()
            optimizer.step()
        ends.append(w.detach())
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)
    assert not torch.equal(ends[0], torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))


def test_l1_is_the_sum_of_absolute_values_and_pulls_with_constant_strength():
    w = torch.tensor([[1.0, -2.0], [0.0, 0.5]], dtype=torch.float64, requires_grad=True)
    value = penalty.Elastic(l1=0.1)([w, w[:1]])
    assert float(value.detach()) == pytest.approx(0.1 * (3.5 + 3.0))
    (grad,) = torch.autograd.grad(penalty.Elastic(l1=0.1)([w]), w)
    torch.testing.assert_close(grad, 0.1 * w.detach().sign())


def test_both_are_scikit_learns_elastic_net():
    """alpha (share l1 + (1 - share) / 2 l2), minimised by proximal steps here."""
    from sklearn.linear_model import ElasticNet

    torch.manual_seed(0)
    x = torch.randn(60, 5, dtype=torch.float64)
    y = x @ torch.tensor([2.0, -1.0, 0.0, 0.0, 0.5], dtype=torch.float64)
    theirs = ElasticNet(alpha=0.3, l1_ratio=0.5, fit_intercept=False, tol=1e-12).fit(x, y)
    best = torch.from_numpy(theirs.coef_)

    def objective(w):
        rest = (x @ w - y).square().mean() / 2
        return float(rest + penalty.Elastic(l1=0.15, l2=0.15)([w]))

    for _ in range(200):
        near = best + 1e-3 * torch.randn(5, dtype=torch.float64)
        assert objective(near) > objective(best)
