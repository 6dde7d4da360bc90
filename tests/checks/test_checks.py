"""Every check passes a healthy network and catches a planted fault."""

import math
import random
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trainlab.checks import FAIL, PASS, SKIPPED, WARN, Verdict, run_checks
from trainlab.checks import overfit as overfit_file
from trainlab.checks.accumulation import accumulation
from trainlab.checks.initial_loss import initial_loss
from trainlab.checks.input_ignored import input_ignored
from trainlab.checks.output_range import output_range
from trainlab.checks.overfit import overfit
from trainlab.checks.parameters import parameters
from trainlab.checks.penalty import penalty
from trainlab.checks.tools import floor, no_dropout
from trainlab.errors import ConfigError, NonFiniteError
from trainlab.optim.penalty import Elastic
from trainlab.training.trainer import Extras

CHECKS = {
    check.__name__: check
    for check in (
        initial_loss,
        penalty,
        parameters,
        overfit,
        output_range,
        input_ignored,
        accumulation,
    )  # fmt: skip
}


def net(*layers: nn.Module, std: float | None = None) -> nn.Module:
    """Flatten and `layers`; weights of N(0, std), or He's where no std is given."""
    model = nn.Sequential(nn.Flatten(), *layers)
    for p in model.parameters():
        if p.dim() > 1:
            nn.init.normal_(p, 0, std or math.sqrt(2 / p.shape[1]))
    return model


def relu_net(*end: nn.Module, std: float | None = None) -> nn.Module:
    return net(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10), *end, std=std)


class Through(nn.Module):
    """A network whose input goes through a function first."""

    def __init__(self, function):
        super().__init__()
        self.function, self.net = function, relu_net()

    def forward(self, x):
        return self.net(self.function(x))


def test_every_check_passes_a_healthy_network(healthy, optimizer, fresh_of):
    verdicts = run_checks(CHECKS, fresh_of(healthy, optimizer))
    assert {v.name: v.status for v in verdicts} == dict.fromkeys(CHECKS, PASS), verdicts


def test_random_numbers_are_as_before(fresh_of):
    def numbers():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()

    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    expected = numbers()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    run_checks({**CHECKS, "own": lambda fresh: (np.random.rand(), random.random())}, fresh_of())
    assert numbers() == expected


def test_a_check_that_raises_is_skipped_and_the_others_run(fresh_of):
    def broken(fresh):
        raise RuntimeError("shapes do not fit\nmore")

    def diverged(fresh):
        raise NonFiniteError("loss = nan", 1)

    first, second, last = run_checks(
        {"broken": broken, "diverged": diverged, "penalty": penalty}, fresh_of()
    )
    place = f"test_checks.py:{broken.__code__.co_firstlineno + 1} in broken"
    saw = f"it raised RuntimeError at {place}: shapes do not fit"
    assert replace(first, error="") == Verdict("broken", SKIPPED, saw)
    assert "Traceback" in first.error and "shapes do not fit\nmore" in first.error
    assert (second.status, second.stops) == (FAIL, True)
    assert last.status == PASS

    def user_error():
        raise ConfigError("model = cnn: needs images")

    with pytest.raises(ConfigError):
        run_checks({"penalty": penalty}, user_error)


# initial loss


def test_initial_loss_explains_a_he_network(fresh_of):
    verdict = initial_loss(fresh_of(relu_net))
    numbers = re.fullmatch(
        r"(.+) = ln 10 \(2.30\) \+ (.+) from logits of std (.+) ([+-]) (.+) by chance", verdict.saw
    )
    loss, spread, std, rest = (float(numbers[i]) for i in (1, 2, 3, 5))
    assert verdict.status == PASS
    assert loss > 2.5  # 9 to 65 % above ln 10 is right
    assert loss == pytest.approx(math.log(10) + spread + float(f"{numbers[4]}{rest}"), abs=0.016)
    assert 0.5 < std < 2.8


@pytest.mark.parametrize("classes", [2, 10, 300])
@pytest.mark.parametrize("loss", [F.cross_entropy, partial(F.cross_entropy, label_smoothing=0.1)])
def test_initial_loss_passes_any_number_of_classes_and_sorted_batches(fresh_of, classes, loss):
    x = torch.randn(96, 64)
    for y in (torch.arange(96) % classes, torch.full((96,), classes - 1)):
        build = partial(net, nn.Linear(64, 50), nn.ReLU(), nn.Linear(50, classes))
        verdict = initial_loss(fresh_of(build, loss=loss, data=(x, y)))
        assert (verdict.status, "know" in verdict.saw) == (PASS, False), verdict


def test_initial_loss_warns_of_raw_pixels_and_large_weights(fresh_of, clusters):
    raw = (4.9 + 6 * clusters[0], clusters[1])  # digits 0 .. 16: mean 4.9, std 6
    assert initial_loss(fresh_of(relu_net, data=raw)).status == WARN
    assert initial_loss(fresh_of(partial(relu_net, std=1.0))).status == WARN
    verdict = initial_loss(fresh_of(partial(relu_net, std=1.0)))
    assert "from logits of std" in verdict.saw
    assert "init=xavier_normal" in verdict.advice


def test_initial_loss_names_what_is_not_finite(fresh_of, clusters):
    bad = clusters[0].clone()
    bad[0, 0, 3, 3] = math.nan
    verdict = initial_loss(fresh_of(data=(bad, clusters[1])))
    assert (verdict.status, verdict.stops) == (FAIL, True)
    assert "1 values of the input" in verdict.saw
    verdict = initial_loss(fresh_of(partial(relu_net, std=1e30)))
    assert (verdict.status, verdict.stops) == (FAIL, True)
    assert "logits" in verdict.saw


def test_initial_loss_warns_where_outputs_contradict_the_labels(fresh_of, clusters):
    trainer = fresh_of()()
    for _ in range(20):
        trainer.step(*clusters)
    trained = trainer.model
    assert "already trained on these labels" in initial_loss(fresh_of(lambda: trained)).saw
    shifted = (clusters[0], (clusters[1] + 1) % 10)
    verdict = initial_loss(fresh_of(lambda: trained, data=shifted))
    assert (verdict.status, "(k + 9) mod 10" in verdict.saw) == (WARN, True)
    trained[-1].weight.data *= -1
    assert "unexplained" in initial_loss(fresh_of(lambda: trained)).saw


# penalty


def test_penalty(fresh_of):
    assert "with penalty.l2=0.01, expected +" in penalty(fresh_of()).saw
    assert penalty(fresh_of(extras=Extras(penalty=Elastic(l2=1e-4)))).status == PASS

    class Twice(Elastic):  # applies the strength twice
        def __call__(self, params):
            return 2 * super().__call__(params)

    assert penalty(fresh_of(extras=Extras(penalty=Twice(l2=1e-2)))).status == FAIL
    assert penalty(fresh_of(extras=Extras(penalty=lambda params: 0))).status == SKIPPED


# parameters


def test_parameters_names_what_is_missing_or_without_gradient(fresh_of):
    def first_only(model):
        return torch.optim.Adam(model[1].parameters())

    verdict = parameters(fresh_of(relu_net, first_only))
    assert (verdict.status, verdict.stops) == (FAIL, True)
    assert "not in the optimizer: 3.weight, 3.bias" in verdict.saw

    def with_spare():
        model = relu_net()
        model.spare = nn.Linear(2, 2)
        model.forward = lambda x: model[3](model[2](model[1](x.flatten(1))))
        return model

    verdict = parameters(fresh_of(with_spare))
    assert (verdict.status, verdict.stops) == (FAIL, True)
    assert "spare.weight, spare.bias" in verdict.saw


def test_parameters_leaves_frozen_tensors_alone_but_not_zeros_or_lr_0(fresh_of):
    def frozen():
        model = relu_net()
        model[1].requires_grad_(False)
        return model

    def one_group_at_0(model):
        groups = [{"params": model[1].parameters(), "lr": 0}, {"params": model[3].parameters()}]
        return torch.optim.SGD(groups, lr=0.1)

    assert parameters(fresh_of(frozen)).status == PASS
    assert parameters(fresh_of(relu_net, one_group_at_0)).status == PASS
    zeros = parameters(fresh_of(partial(relu_net, std=1e-45)))
    assert (zeros.status, zeros.stops) == (WARN, False)
    at_rest = parameters(fresh_of(optimizer=lambda m: torch.optim.SGD(m.parameters(), lr=0)))
    assert (at_rest.status, at_rest.stops) == (FAIL, False)


class Sometimes(nn.Module):
    """Skips its layer at random in training."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(10, 10)

    def forward(self, z):
        return z + self.layer(z) if torch.rand(()) < 0.5 or not self.training else z


def test_parameters_waits_for_layers_that_are_skipped_at_random(fresh_of):
    for seed in range(5):
        assert (
            parameters(fresh_of(lambda s=seed: relu_net(*[Draw()] * s, Sometimes()))).status == PASS
        )


class Draw(nn.Module):
    def forward(self, z):
        torch.rand(())
        return z


# overfit


def test_overfit_is_measured_without_functional_dropout(fresh_of):
    def build():
        model = relu_net()
        model.forward = lambda x: model[3](
            F.dropout(model[2](model[1](x.flatten(1))), 0.8, model.training)
        )
        return model

    assert overfit(fresh_of(build)).status == PASS


def test_no_dropout_reaches_every_module_that_has_one():
    model = nn.ModuleList(
        [nn.Dropout(0.5), nn.MultiheadAttention(4, 1, 0.2), nn.GRU(4, 4, 2, dropout=0.1)]
    )
    model.eval()
    with no_dropout(model):
        assert model[0].training
        assert (model[0].p, model[1].dropout, model[2].dropout) == (0, 0, 0)
    assert (model[0].p, model[1].dropout, model[2].dropout) == (0.5, 0.2, 0.1)


def test_overfit_blames_lr_or_network(fresh_of):
    for lr, remedy in ((5e-3, "optim.lr=0.05 "), (1e6, "optim=adam ")):
        slow = overfit(fresh_of(relu_net, lambda m, lr=lr: torch.optim.SGD(m.parameters(), lr=lr)))
        assert slow.status == WARN
        assert "tried: learned in" in slow.advice
        assert slow.advice.startswith(remedy)
    zeros = overfit(fresh_of(partial(relu_net, std=1e-45)))
    assert (zeros.status, zeros.stops) == (FAIL, False)


def test_overfit_has_a_second_reference(fresh_of, monkeypatch):
    """SGD that stands still, and a first Adam that does."""
    monkeypatch.setattr(overfit_file, "ADAM", (1e-12, 1e-2))
    verdict = overfit(fresh_of(relu_net, lambda m: torch.optim.SGD(m.parameters(), lr=1e-12)))
    assert (verdict.status, "Adam at lr 0.01" in verdict.saw) == (WARN, True)
    assert verdict.advice.startswith("optim=adam optim.lr=0.01 (tried")
    monkeypatch.setattr(overfit_file, "ADAM", (1e-12,))
    assert (
        overfit(fresh_of(relu_net, lambda m: torch.optim.SGD(m.parameters(), lr=1e-12))).status
        == FAIL
    )


def test_overfit_names_equal_images_with_different_labels(fresh_of, clusters):
    x, y = clusters[0].clone(), clusters[1].clone()
    x[7], y[7], y[2] = x[2], 1, 4
    verdict = overfit(fresh_of(data=(x, y)))
    assert (verdict.status, "images 2 and 7 are equal" in verdict.advice) == (FAIL, True)


def hinge(z, y):
    return F.multi_margin_loss(z, y)


def squared(z, y):
    return (z - F.one_hot(y, 10)).square().mean()


def log_of_probabilities(z, y):
    return F.nll_loss(z.log(), y)


@pytest.mark.parametrize(
    ("loss", "end", "least"),
    [
        (F.cross_entropy, None, 0),
        (partial(F.cross_entropy, label_smoothing=0.1), None, 0.5008),
        (hinge, None, 0),
        (squared, None, 0),
        (F.nll_loss, nn.LogSoftmax(1), 0),
        (log_of_probabilities, nn.Softmax(1), 0),
    ],
)
def test_losses_that_belong_to_their_outputs(fresh_of, loss, end, least):
    fresh = fresh_of(partial(relu_net, *([end] if end else [])), loss=loss)
    trainer = fresh()
    x, y = trainer.batches(0)
    assert floor(loss, trainer.model(x), y) == pytest.approx(least, abs=2e-3)
    verdicts = run_checks(CHECKS, fresh)
    assert {v.status for v in verdicts} == {PASS}, verdicts


def test_overfit_names_a_loss_without_floor(fresh_of):
    verdict = overfit(fresh_of(relu_net, loss=F.nll_loss))
    assert (verdict.status, "log_softmax" in verdict.advice) == (FAIL, True)


# output range, input, accumulation


def test_output_range(fresh_of):
    verdict = output_range(fresh_of(partial(relu_net, nn.Softmax(1))))
    assert verdict.status == FAIL
    assert f"{math.log(math.e + 9) - 1:.3f}" in verdict.saw  # 1.461
    for end, word in ((nn.ReLU(), "relu"), (nn.Tanh(), "tanh"), (nn.Sigmoid(), "sigmoid")):
        verdict = output_range(fresh_of(partial(relu_net, end)))
        assert (verdict.status, word in verdict.advice) == (WARN, True), verdict
    assert output_range(fresh_of(partial(relu_net, nn.Tanh()), loss=hinge)).status == PASS
    for std in (1e-45, 1e-2):  # all outputs 0, or all within -1 .. 1, at these weights only
        assert output_range(fresh_of(partial(relu_net, std=std))).status == PASS


def test_input_ignored(fresh_of):
    for function in (torch.zeros_like, torch.randn_like, lambda x: x * 0):
        assert input_ignored(fresh_of(lambda f=function: Through(f))).status == FAIL
    half = input_ignored(fresh_of(lambda: Through(lambda x: x * (torch.arange(8) > 3))))
    assert (half.status, "32 of 64" in half.saw) == (WARN, True)
    for function in (torch.round, torch.detach):  # no gradient, but not ignored
        assert input_ignored(fresh_of(lambda f=function: Through(f))).status == PASS
    assert input_ignored(fresh_of(partial(relu_net, std=1e-45))).status == PASS


@pytest.mark.parametrize(
    "mix", [lambda x: x + 0.3 * x.roll(1, 0), lambda x: x - x.mean(0)], ids=["roll", "mean"]
)
def test_input_ignored_finds_a_batch_leak(fresh_of, mix):
    verdict = input_ignored(fresh_of(lambda: Through(mix)))
    assert (verdict.name, verdict.status) == ("batch_leak", FAIL)


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize(
    ("clear", "status"), [("start", PASS), ("end", PASS), ("every 4", PASS), ("never", FAIL)]
)
def test_accumulation(fresh_of, clear, status, clip):
    plain, calls = fresh_of(), []

    def fresh():
        trainer = plain()
        optimizer = trainer.optimizer

        def step(x, y):
            calls.append(1)
            if clear == "start" or (clear == "every 4" and len(calls) % 4 == 0):
                optimizer.zero_grad()
            F.cross_entropy(trainer.model(x), y).backward()
            if clip:
                nn.utils.clip_grad_norm_(trainer.model.parameters(), clip)
            optimizer.step()
            if clear == "end":
                optimizer.zero_grad()

        trainer.step = step
        return trainer

    verdict = accumulation(fresh)
    assert verdict.status == status
    assert ("on purpose" in verdict.saw) == (clear == "every 4")
