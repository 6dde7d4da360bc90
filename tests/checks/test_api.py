"""`trainlab.check`: finds planted faults in a plain model, leaves everything as it was."""

import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trainlab.checks import FAIL, PASS, SKIPPED, WARN
from trainlab.checks.api import check
from trainlab.errors import ConfigError


def step_of(model, optimizer, clear=True, after=lambda: None):
    def step(x, y):
        model.train()
        if clear:
            optimizer.zero_grad(set_to_none=False)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        after()

    return step


class Net(nn.Module):
    """Batch norm, dropout, a counter, a buffer that is replaced, random numbers in every mode."""

    def __init__(self, end=None, scale=1.0):
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Linear(32, 10)
        self.drop, self.end, self.scale = nn.Dropout(0.1), end, scale
        self.calls, self.cache = 0, {"last": torch.zeros(1)}
        self.register_buffer("mean", torch.zeros(10))

    def forward(self, x):
        self.calls += 1
        torch.rand(1)  # draws in evaluation too
        z = self.head(self.drop(self.norm(self.first(x.flatten(1) * self.scale)).relu()))
        self.mean = 0.9 * self.mean + 0.1 * z.detach().mean(0)
        self.cache["last"] = self.mean
        return z if self.end is None else self.end(z)


def build(**options):
    torch.manual_seed(0)
    model = Net(**options)
    return model, torch.optim.Adam(model.parameters(), lr=3e-3)


@pytest.mark.parametrize("own_step", [False, True])
def test_a_healthy_model_raises_no_alarm(healthy, optimizer, clusters, own_step):
    torch.manual_seed(0)
    model = healthy()
    of = optimizer(model)
    verdicts = check(model, F.cross_entropy, of, clusters, step_of(model, of) if own_step else None)
    assert len(verdicts) == 16
    allowed = {PASS, SKIPPED} if own_step else {PASS}
    shallow = "profile"  # one activation has no depth to follow
    assert {v.status for v in verdicts if v.name != shallow} <= allowed, verdicts
    assert {v.status for v in verdicts if v.name == shallow} == {SKIPPED}


def failed(verdicts):
    return {v.name: v for v in verdicts if v.status in (FAIL, WARN)}


def test_missing_zero_grad(clusters):
    model, optimizer = build()
    verdicts = check(
        model, F.cross_entropy, optimizer, clusters, step_of(model, optimizer, clear=False)
    )
    assert "zero_grad" in failed(verdicts)["accumulation"].advice


def test_a_layer_missing_from_the_optimizer(clusters):
    model, _ = build()
    tensors = [*model.first.parameters(), *model.norm.parameters()]
    verdict = failed(check(model, F.cross_entropy, torch.optim.SGD(tensors, 0.1), clusters))
    assert "head.weight, head.bias" in verdict["parameters"].saw
    assert verdict["parameters"].stops


def test_softmax_before_cross_entropy(clusters):
    model, optimizer = build(end=nn.Softmax(1))
    verdict = failed(check(model, F.cross_entropy, optimizer, clusters))["output_range"]
    assert (verdict.status, "softmax" in verdict.saw) == (FAIL, True)


def test_an_ignored_input(clusters):
    model, optimizer = build(scale=0.0)
    verdict = failed(check(model, F.cross_entropy, optimizer, clusters))["input_ignored"]
    assert (verdict.status, "no output depends" in verdict.saw) == (FAIL, True)


def test_regression(clusters):
    model, optimizer = build()
    verdicts = check(model, F.mse_loss, optimizer, (clusters[0], torch.randn(64, 10)))
    skipped = {"initial_loss", "loss_sign", "overfit", "output_range", "profile", "baselines"}
    assert {v.name for v in verdicts if v.status == SKIPPED} == skipped
    assert {v.status for v in verdicts} == {SKIPPED, PASS}


def test_a_penalty_inside_the_loss_is_left_alone(clusters):
    model, optimizer = build()

    def loss(z, y):
        return F.cross_entropy(z, y) + 1e-4 * model.head.weight.square().sum()

    verdicts = {v.name: v for v in check(model, loss, optimizer, clusters)}
    assert (verdicts["penalty"].status, "of its own" in verdicts["penalty"].saw) == (SKIPPED, True)


def everything(model, optimizer, scheduler, counter):
    """All that a check could disturb, bit for bit."""
    tensors = {
        n: (id(t), t.data_ptr(), t.clone()) for n, t in model.state_dict(keep_vars=True).items()
    }
    grads = {n: p.grad if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
    states = [
        {k: torch.as_tensor(v).clone() for k, v in optimizer.state[p].items()}
        for p in model.parameters()
        if p in optimizer.state
    ]
    groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    return {
        "tensors": tensors,
        "grads": grads,
        "states": states,
        "groups": groups,
        "trainable": [p.requires_grad for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "own": (model.calls, model.drop.p, id(model.cache["last"])),
        "scheduler": {k: v for k, v in scheduler.state_dict().items() if not callable(v)},
        "counter": dict(counter),
        "random": (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()),
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


class Interrupt:
    """Raises at the n-th call."""

    def __init__(self, n, error):
        self.left, self.error = n, error

    def __call__(self):
        self.left -= 1
        if self.left == 0:
            raise self.error


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("own_step", [False, True])
@pytest.mark.parametrize("interrupted", [0, 1, 2, 30])
def test_everything_is_left_as_it_was(clusters, trained, own_step, interrupted):
    model, optimizer = build()
    model.first.bias.requires_grad_(False)
    model.norm.eval()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    counter, total = {"calls": 0}, 0
    interrupt = Interrupt(interrupted, KeyboardInterrupt)

    def after():
        nonlocal total
        total += 1
        counter["calls"] += 1
        scheduler.step()
        interrupt()

    step = step_of(model, optimizer, after=after)
    left, interrupt.left = interrupt.left, 0
    for _ in range(5 if trained else 0):
        step(*clusters)
        model.norm.eval()
    interrupt.left = left
    loss_calls = Interrupt(interrupted, KeyboardInterrupt)

    def loss(z, y):
        if not own_step:
            loss_calls()
        return F.cross_entropy(z, y)

    before, calls, batch = everything(model, optimizer, scheduler, counter), total, clusters
    kept = [t.clone() for t in batch]
    if interrupted:
        with pytest.raises(KeyboardInterrupt):
            check(model, loss, optimizer, batch, step if own_step else None)
    else:
        check(model, loss, optimizer, batch, step if own_step else None)
    after_it = everything(model, optimizer, scheduler, counter)
    assert [k for k in before if not same(before[k], after_it[k])] == []
    assert total == calls
    assert same(kept, list(batch))


def test_training_goes_on_bit_for_bit(clusters):
    weights = []
    for checked in (False, True):
        model, optimizer = build()
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
        step = step_of(model, optimizer, after=scheduler.step)
        for _ in range(5):
            step(*clusters)
        if checked:
            check(model, F.cross_entropy, optimizer, clusters, step)
        for _ in range(5):
            step(*clusters)
        weights.append([p.detach() for p in model.parameters()])
    assert same(*weights)


class Loop:
    """A user's own training loop, as an object."""

    def __init__(self, model, optimizer):
        self.model, self.optimizer, self.seen, self.losses = model, optimizer, 0, []
        self.schedulers = [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)]

    def __call__(self, x, y):
        self.seen += 1
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.item())
        self.schedulers[0].step()


def with_loop(loop, x, y):
    return loop(x, y)


@pytest.mark.parametrize(
    "form",
    [
        lambda loop: loop,
        lambda loop: loop.__call__,
        lambda loop: partial(with_loop, loop),
        lambda loop: lambda x, y: with_loop(loop, x, y),
    ],
)
def test_the_state_of_a_training_loop_is_left_as_it_was(clusters, form):
    loop = Loop(*build())
    loop(*clusters)
    before = loop.seen, loop.losses[:], loop.schedulers[0].state_dict()
    check(loop.model, F.cross_entropy, loop.optimizer, clusters, form(loop))
    assert same(before, (loop.seen, loop.losses, loop.schedulers[0].state_dict()))


def test_a_broken_step_is_named_and_undone(clusters):
    model, optimizer = build()

    def step(x, y):
        model.head.weight.data.zero_()
        raise RuntimeError("no such layer")

    before = model.head.weight.detach().clone()
    verdicts = {v.name: v for v in check(model, F.cross_entropy, optimizer, clusters, step)}
    assert "no such layer" in verdicts["overfit"].saw
    assert torch.equal(model.head.weight, before)


@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [
        ("model", "mlp", "model = str"),
        ("loss", 3, "loss = int"),
        ("optimizer", torch.optim.Adam, "must be an object"),
        ("step", 3, "step = int"),
        ("batch", torch.zeros(4, 64), "pair of tensors"),
        ("batch", (torch.zeros(1, 64), torch.zeros(1).long()), "B >= 2"),
        ("batch", (torch.zeros(4, 64), torch.zeros(3).long()), "B >= 2"),
        ("batch", (torch.zeros(4, 64), torch.zeros(4).int()), r"y.long\(\)"),
        ("batch", (torch.zeros(4, 64), torch.full((4,), 10)), r"y holds 10 \.\. 10"),
        ("batch", (torch.zeros(4, 63), torch.zeros(4).long()), "x \\(4, 63\\)"),
        ("loss", nn.CrossEntropyLoss(reduction="none"), "reduction='mean'"),
        ("batch", (torch.zeros(4, 64), torch.zeros(4)), "fails for y \\(4,\\) torch.float32"),
    ],
)
def test_wrong_arguments_end_in_one_line(clusters, argument, value, words):
    model, optimizer = build()
    arguments = {"model": model, "loss": F.cross_entropy, "optimizer": optimizer, "batch": clusters}
    with pytest.raises(ConfigError, match=words):
        check(**{**arguments, argument: value})


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda(healthy, optimizer, clusters):
    model = healthy().cuda()
    before, state = [p.detach().clone() for p in model.parameters()], torch.cuda.get_rng_state()
    verdicts = check(model, F.cross_entropy, optimizer(model), [t.cuda() for t in clusters])
    assert {v.status for v in verdicts} == {PASS}, verdicts
    assert same(before, [p.detach() for p in model.parameters()])
    assert torch.equal(state, torch.cuda.get_rng_state())


def test_a_check_that_raises_leaves_its_traceback(monkeypatch, clusters):
    def divides(fresh):
        return 1 / 0

    divides.__module__ = "trainlab.checks.reduction"  # what the door admits
    monkeypatch.setattr("trainlab.checks.reduction.reduction", divides)
    model, optimizer = build()
    x, y = clusters
    found = {v.name: v for v in check(model, F.cross_entropy, optimizer, (x, y))}
    broken = found.pop("reduction")
    assert broken.status == SKIPPED
    assert broken.saw.startswith("it raised ZeroDivisionError at test_api.py:")
    assert "ZeroDivisionError: division by zero" in broken.error
    assert "test_api.py" in broken.error
    assert not any(v.error for v in found.values())
