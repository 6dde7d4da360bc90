"""Checks of modes, optimizer settings, noise in the labels, metric and sign of the loss: each is
silent on healthy recipes (tests/checks/test_full.py) and names its planted fault."""

import re
import types

import pytest
import torch
from recipes import fresh, net, with_train
from torch import nn
from torch.nn import functional as F

from trainlab.checks import FAIL, PASS, SKIPPED, WARN
from trainlab.checks.architecture import architecture
from trainlab.checks.data_card import data_card
from trainlab.checks.label_noise import NOISE, at_least, label_noise
from trainlab.checks.loss_sign import loss_sign
from trainlab.checks.metric import metric
from trainlab.checks.modes import modes
from trainlab.checks.optimizer import optimizer

BN = ["norm=batch", "model.dropout=0.3"]


def spoilt(change, *typed):
    """`fresh` of a recipe; `change(trainer)` plants a fault."""
    make = fresh(*typed)

    def changed():
        trainer = make()
        change(trainer)
        return trainer

    return changed


# data


@pytest.mark.parametrize("share", [0.1, 0.2, 0.4])
def test_label_noise_is_found_and_measured(share):
    verdict = label_noise(fresh(f"data.label_noise={share}"))
    assert (verdict.status, verdict.cause) == (WARN, "data.label_noise")
    share_seen = float(verdict.saw.partition("votes: ")[2].partition("%")[0]) / 100
    assert share_seen == pytest.approx(share, abs=0.06)


def test_label_noise_names_the_wrong_samples():
    def flipped(splits):
        y = splits.train.y.clone()
        y[::10] = (y[::10] + 1) % 10
        return with_train(splits, y=y)

    verdict = label_noise(fresh(change=flipped))
    told = [int(i) for i in re.findall(r"(\d+) \(", verdict.advice)]
    assert verdict.status == WARN
    assert sum(i % 10 == 0 for i in told) >= 4, verdict


def test_label_noise_of_few_samples_has_an_interval():
    """Of 90 surest ones 6 may be wrong by chance, 7 not; of 600, 31 and 32."""
    for wrong, n, found in ((6, 90, False), (7, 90, True), (31, 600, False), (32, 600, True)):
        assert (at_least(wrong, n) >= NOISE) == found
    assert at_least(0, 90) == pytest.approx(0, abs=1e-12)
    assert label_noise(fresh("data.train_size=300", "data.label_noise=0.3")).status == WARN


def test_label_noise_is_silent_where_neighbours_say_nothing():
    assert label_noise(fresh()).status == PASS
    assert label_noise(fresh("data=wine")).status == SKIPPED

    def shuffled(splits):
        order = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(0))
        return with_train(splits, y=splits.train.y[order])

    assert label_noise(fresh(change=shuffled)).status == SKIPPED
    assert label_noise(fresh("data=two_moons")).status in (PASS, SKIPPED)


@pytest.mark.parametrize("size", [1.0, 2.0, 4.0])
def test_noise_on_the_training_inputs_is_no_shift(size):
    def noisy(trainer):
        x = trainer.batches.x.float()
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        trainer.batches.x = x + size * x.std() * noise

    assert data_card(spoilt(noisy)).cause == "data.noisy_input"
    assert data_card(fresh("preprocess.test=none")).cause == "data.split_shift"


def test_few_samples_a_class_are_said():
    assert data_card(fresh("data.train_size=60")).cause == "fit.overfit"
    assert data_card(fresh("data.train_size=200")).status == PASS


# modes


@pytest.mark.parametrize("typed", [[], BN, ["norm=batch", "accumulate=4"], ["data.order=sorted"]])
def test_modes_pass(typed):
    assert modes(fresh(*typed)).status == PASS


def test_modes_are_silent_where_norms_are_frozen_on_purpose():
    assert modes(fresh("norm=batch", "groups.freeze=['*norm*']")).status == PASS
    assert modes(fresh("norm=batch", "groups.freeze=['hidden1*']")).status == PASS


def evaluates(trainer):
    trainer.change(set_train_mode=nn.Module.eval)


def stale(trainer):
    for module in trainer.model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.momentum = 0.0


def stays(trainer):
    for module in trainer.model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.train = types.MethodType(lambda self, mode=True: self, module)


def reseeds(trainer):
    step = trainer.step

    def again(x, y):
        torch.manual_seed(1)
        return step(x, y)

    trainer.step = again


def repeats(trainer):
    order = trainer.batches.order(0)
    trainer.batches.order = lambda epoch: order


@pytest.mark.parametrize(
    ("cause", "change"),
    [("loop.mode", evaluates), ("loop.mode", stale), ("norm.mode", stays),
     ("loop.seed_reset", reseeds), ("loop.seed_reset", repeats)],
    ids=["evaluates", "stale", "stays", "reseeds", "repeats"],
)  # fmt: skip
def test_modes_names(cause, change):
    verdict = modes(spoilt(change, *BN))
    assert (verdict.status in (WARN, FAIL), verdict.cause) == (True, cause), verdict


def test_modes_warns_of_dropout_and_of_few_samples_a_norm():
    assert modes(fresh("model.dropout=0.95")).cause == "reg.dropout_high"
    assert modes(fresh("model.dropout=0.5")).status == PASS
    assert modes(fresh("norm=batch", "batch_size=6")).cause == "norm.mode"
    assert modes(fresh("norm=batch", "batch_size=16", "accumulate=3")).cause == "norm.mode"
    assert modes(fresh("batch_size=4")).status == PASS


# optimizer


OPTIMIZERS = [
    "adadelta", "adagrad", "adam", "adamax", "adamw", "amsgrad", "annealed_noise", "lars",
    "momentum", "momentum_ema", "muon", "nadam", "nesterov", "radam", "rmsprop",
    "rmsprop_momentum", "sgd",
]  # fmt: skip


@pytest.mark.parametrize("model", [["model.widths=[128,128,128,128]"], ["model=cnn"], BN], ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_optimizer_at_its_usual_lr_is_blamed(name, model):
    assert optimizer(fresh(f"optim={name}", *model)).status == PASS


@pytest.mark.parametrize(
    ("cause", "typed"),
    [
        ("optim.eps", ["optim=adam", "optim.eps=1"]),
        ("reg.weight_decay_high", ["optim.weight_decay=3"]),
        ("reg.weight_decay_high", ["optim=adam", "optim.weight_decay=3"]),
        ("reg.weight_decay_high", ["optim=adamw", "optim.weight_decay=30"]),
        ("reg.weight_decay_high", ["penalty.l2=3"]),
        ("optim.overclipped", ["clip.norm=1e-4"]),
        ("optim.overclipped", ["clip.value=1e-6"]),
        ("optim.lr_high", ["optim.lr=50"]),
        ("optim.lr_low", ["optim.lr=1e-7"]),
        ("optim.few_updates", ["batch_size=full", "epochs=20"]),
        ("optim.noisy", ["batch_size=1", "model.widths=[128,128,128,128]"]),
    ],
)
def test_optimizer_names(cause, typed):
    verdict = optimizer(fresh(*typed))
    assert (verdict.status, verdict.cause) == (WARN, cause), verdict


@pytest.mark.parametrize(
    "typed",
    [["optim=adamw", "optim.weight_decay=0.1"], ["optim.weight_decay=0.01"], ["penalty.l2=0.001"],
     ["clip.norm=1"], ["clip.adaptive=0.01"], ["optim=adam", "optim.eps=0.001"],
     ["schedule=exponential"], ["schedule.warmup=0.3"], ["epochs=1"], ["batch_size=4"],
     ["batch_size=full", "epochs=200"],
     ["optim=lbfgs", "norm=batch", "batch_size=full", "epochs=60"]],
    ids=" ".join,
)  # fmt: skip
def test_optimizer_passes(typed):
    assert optimizer(fresh(*typed)).status == PASS


def test_a_schedule_in_the_wrong_unit():
    def fast(trainer):
        whole = trainer.schedule
        trainer.change(schedule=lambda step, steps: whole(min(30 * step, steps), steps))

    assert optimizer(spoilt(fast)).cause == "sched.wrong_unit"


# metric, loss, network


def test_metric(monkeypatch, fresh_of):
    assert metric(fresh()).status == PASS
    assert metric(fresh("init=zeros")).status == PASS  # all outputs tie
    assert metric(fresh("norm=batch", "accumulate=4")).status == PASS
    monkeypatch.setattr(
        "trainlab.training.metrics.n_correct", lambda z, y: (z.argmax(0)[y] == y).sum(-1)
    )
    verdict = metric(fresh())
    assert (verdict.status, verdict.cause) == (FAIL, "metric.inconsistent")


def test_loss_sign(fresh_of):
    for loss in ("cross_entropy", "focal", "hinge", "squared_hinge", "mse"):
        assert loss_sign(fresh(f"loss={loss}")).status == PASS
    verdict = loss_sign(fresh_of(loss=lambda z, y: -F.cross_entropy(z, y)))
    assert (verdict.status, verdict.cause) == (FAIL, "loss.sign")
    assert loss_sign(fresh_of(loss=lambda z, y: 9 - F.cross_entropy(z, y))).status == FAIL


def test_architecture_tells_and_never_warns(fresh_of):
    def tied():
        model = net(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 10))
        model[3].weight = model[1].weight
        return model

    def idle():
        return net(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))

    for build, cause, text in ((tied, "arch.tied", "1.weight = 3.weight"),
                               (idle, "arch.bias", "1.bias")):  # fmt: skip
        verdict = architecture(fresh_of(build))
        assert (verdict.status, verdict.cause, text in verdict.saw) == (PASS, cause, True)
    assert architecture(fresh("norm=batch")).cause == ""


def test_one_sample_for_a_third_of_all_is_constant_input():
    from trainlab.checks.duplicates import duplicates

    def same(splits):
        x = splits.train.x.clone()
        x[::3] = x[0]
        return with_train(splits, x=x)

    assert duplicates(fresh(change=same)).cause == "data.constant_input"
