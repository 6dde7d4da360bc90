"""The battery of preflight=full: silent on healthy recipes of digits, each check catches its
planted fault."""

import json
import math
import time
from dataclasses import asdict
from functools import partial

import pytest
import torch
from recipes import bench, fresh, net, with_train
from torch import nn
from torch.nn import functional as F

from trainlab.__main__ import main
from trainlab.checks import FAIL, PASS, SKIPPED, WARN, run_checks
from trainlab.checks.baselines import baselines
from trainlab.checks.data_card import data_card
from trainlab.checks.duplicates import duplicates
from trainlab.checks.gradient import gradient
from trainlab.checks.input_ignored import input_ignored
from trainlab.checks.label_shift import label_shift
from trainlab.checks.linear_network import linear_network
from trainlab.checks.profile import profile
from trainlab.checks.reduction import reduction
from trainlab.checks.symmetry import effective_rank, symmetry
from trainlab.config import words
from trainlab.config.build import Door
from trainlab.doctor.causes import ranked
from trainlab.doctor.examine import of_verdicts
from trainlab.training.randomness import random_state

DEEP = "model.widths=[64,64,64,64,64,64,64,64]"


HEALTHY = [
    [],
    *([f"activation={a}", f"init={i}"] for a in ("relu", "elu", "tanh")
      for i in ("he_normal", "xavier_normal")),
    ["norm=batch"], ["norm=layer"], ["model.dropout=0.3"], ["model=cnn"], ["optim=adam"],
    ["augment=[none]"], ["activation=rrelu", "model.dropout=0.5"], ["init.head=zero"],
    ["model=residual_mlp", "norm=batch", "init.zero_gamma=true"], [DEEP, "optim=adam"],
    ["batch_size=8"],
    ["data=spirals"], ["loss=hinge", "optim.lr=0.01"], ["max_steps=5"],
]  # fmt: skip


@pytest.mark.parametrize("typed", HEALTHY, ids=" ".join)
def test_a_healthy_recipe_raises_no_alarm(typed):
    made = bench(*typed)
    checks = {name: Door()(node) for name, node in made.cfg.preflight.checks.items()}
    verdicts = run_checks(checks, partial(made.fresh, plain=True))
    assert len(verdicts) == 23
    assert [v for v in verdicts if v.status != PASS] == []


def test_quick_has_none_of_them():
    quick, full = (words.file_values("preflight", word) for word in ("quick", "full"))
    assert set(quick) < set(full)
    assert not any("data_card" in key for key in quick)


# data


@pytest.mark.parametrize(
    ("typed", "word"),
    [
        (["preprocess=none"], "preprocess=standardize"),
        (["preprocess.test=none"], "preprocess.test=null"),
        (["data.imbalance=0.01"], "init.bias=prior"),
    ],
)
def test_data_card_warns(typed, word):
    verdict = data_card(fresh(*typed))
    assert (verdict.status, word in verdict.advice) == (WARN, True), verdict


def test_data_card_says_what_it_sees():
    found = bench()
    verdict = data_card(partial(found.fresh, plain=True))
    x = found.preprocess(found.splits.train.x)
    assert f"{x.min():.3g} .. {x.max():.3g}" in verdict.saw
    assert f"std {x.std():.2g}" in verdict.saw
    still = int((x == x[0]).flatten(1).all(0).sum())
    counts = found.splits.train.y.bincount()
    assert f"{still} of 64 features constant; 10 classes of {counts.min()} to" in verdict.saw


def test_data_card_names_equal_twice_normalised_and_sorted_samples():
    def equal(splits):
        return with_train(splits, x=splits.train.x[:1].expand_as(splits.train.x).contiguous())

    assert data_card(fresh(change=equal)).status == FAIL

    def in_order(splits):
        order = splits.train.y.argsort()
        return with_train(splits, splits.train.x[order], splits.train.y[order])

    assert "order=shuffled" in data_card(fresh("data.order=sorted", change=in_order)).advice
    assert data_card(fresh(change=in_order)).status == PASS

    def twice():
        trainer = fresh()()
        plain = trainer.batches
        trainer.change(
            batches=lambda step: ((plain(step)[0] - 4.9) / 6, plain(step)[1]), validation=None
        )
        return trainer

    assert "normalised twice" in data_card(twice).advice


def test_data_card_names_what_is_not_finite(fresh_of, clusters):
    x = clusters[0].clone()
    x[17, 0, 2, 2] = math.inf
    verdict = data_card(fresh_of(data=(x, clusters[1])))
    assert (verdict.status, verdict.stops, "[17]" in verdict.saw) == (FAIL, True, True)


def test_duplicates():
    def torn(splits):
        x, y = splits.train.x.clone(), splits.train.y.clone()
        x[:20], y[:20] = x[20:40], (y[20:40] + 1) % 10
        return with_train(splits, x, y)

    verdict = duplicates(fresh(change=torn))
    assert (verdict.status, "40 contradict" in verdict.saw) == (WARN, True), verdict

    def leaked(splits):
        x, y = splits.train.x.clone(), splits.train.y.clone()
        x[:30], y[:30] = splits.val.x[:30], splits.val.y[:30]
        return with_train(splits, x, y)

    verdict = duplicates(fresh(change=leaked))
    assert (verdict.status, "validation 30 are in training" in verdict.saw) == (WARN, True)
    assert "0 contradict" in duplicates(fresh()).saw


@pytest.mark.parametrize("shift", [-3, 1, 2])
def test_label_shift_finds_misaligned_labels(shift):
    def roll(splits):
        return with_train(splits, y=splits.train.y.roll(shift))

    verdict = label_shift(fresh(change=roll))
    assert (verdict.status, f"roll the labels by {-shift}" in verdict.advice) == (WARN, True)


def test_label_shift_finds_renumbered_classes_and_random_labels():
    def renumbered(splits):
        return with_train(splits, y=(splits.train.y + 1) % 10)

    verdict = label_shift(fresh(change=renumbered))
    assert (verdict.status, "(k + 1) mod 10" in verdict.saw) == (WARN, True), verdict

    def shuffled(splits):
        order = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(0))
        return with_train(splits, y=splits.train.y[order])

    verdict = label_shift(fresh(change=shuffled))
    assert (verdict.status, "random" in verdict.advice) == (WARN, True), verdict
    assert label_shift(fresh("data.label_noise=0.4")).status == PASS
    assert label_shift(fresh("data=wine")).status == SKIPPED


# loss and gradient


def test_reduction(fresh_of):
    def total(z, y):
        return F.cross_entropy(z, y, reduction="sum")

    verdict = reduction(fresh_of(loss=total))
    assert (verdict.status, "sum" in verdict.advice) == (WARN, True)
    assert reduction(fresh_of(loss=lambda z, y: total(z, y) + 5)).status == WARN
    weighted = partial(F.cross_entropy, weight=torch.arange(1.0, 11))
    assert reduction(fresh_of(loss=weighted)).status == PASS
    assert reduction(fresh_of(loss=lambda z, y: total(z, y) ** 0.5)).status == SKIPPED


class Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad / 2


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    "wrong", [Halved.apply, torch.Tensor.detach, lambda z: z + z.detach() * 0.1]
)
def test_gradient_finds_a_wrong_backward(fresh_of, wrong):
    def build():
        return net(nn.Linear(64, 32), nn.Tanh(), Apply(wrong), nn.Linear(32, 10))

    verdict = gradient(fresh_of(build))
    assert (verdict.status, "in 1." in verdict.saw) == (FAIL, True), verdict


def test_gradient_leaves_kinks_out_and_masks_alone(fresh_of, healthy):
    assert gradient(fresh_of(healthy)).status == PASS

    def zeros():  # every relu at its kink
        model = net(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        nn.init.zeros_(model[1].weight), nn.init.zeros_(model[1].bias)
        return model

    verdict = gradient(fresh_of(zeros))
    assert (verdict.status, "at kinks" in verdict.saw) in {(PASS, True), (SKIPPED, True)}
    fixed = net(Apply(lambda x: x.float()), nn.Linear(64, 10))
    assert gradient(fresh_of(lambda: fixed)).status == SKIPPED


# network


@pytest.mark.parametrize("init", ["zeros", "constant"])
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_symmetry_fails_equal_units(init, model):
    verdict = symmetry(fresh(f"init={init}", f"model={model}"))
    assert (verdict.status, "100% of the units" in verdict.saw) == (FAIL, True), verdict


def test_symmetry_warns_where_half_the_units_are_twins_or_one_direction_is_left(fresh_of):
    def twins(share=40):
        model = net(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
        with torch.no_grad():
            for p in (model[1].weight, model[1].bias):
                p[:share] = p[:1]
            model[3].weight[:, :share] = model[3].weight[:, :1]
        return model

    assert symmetry(fresh_of(twins)).status == WARN
    assert symmetry(fresh_of(partial(twins, 10))).status == PASS

    def narrow():
        model = net(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
        with torch.no_grad():
            model[1].weight.copy_(torch.randn(64, 1) @ torch.randn(1, 64) / 8)
        return model

    verdict = symmetry(fresh_of(narrow))
    assert (verdict.status, "rank 1.0" in verdict.saw) == (WARN, True), verdict


def test_effective_rank_of_known_spectra():
    axes = torch.linalg.qr(torch.randn(50, 6, dtype=torch.float64)).Q
    axes = torch.linalg.qr(axes - axes.mean(0)).Q  # centred columns
    assert effective_rank(axes[:, :4]) == pytest.approx(4)
    two = axes[:, :2] * torch.tensor([3.0, 1.0])
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert effective_rank(two) == pytest.approx(math.exp(entropy))
    assert effective_rank(torch.ones(5, 3)) == 0


@pytest.mark.parametrize(
    ("typed", "texts"),
    [
        (["init=small_gaussian", DEEP], ["signal vanishes", "gradient vanishes"]),
        (["init=unit_gaussian", DEEP], ["signal explodes", "gradient explodes"]),
        (["activation=sigmoid", "init=xavier_normal", DEEP], ["gradient vanishes"]),
        (["init=zeros"], ["signal is exactly 0 at 01.relu", "gradient is exactly 0"]),
    ],
)
def test_profile(typed, texts):
    verdict = profile(fresh(*typed))
    assert verdict.status == WARN
    assert all(text in verdict.saw for text in texts), verdict


def test_profile_sees_a_dead_signal_behind_a_healthy_pooled_std():
    """Biases give every unit its own constant: large over all, nothing over the samples."""

    def dead():
        trainer = fresh("model.widths=[64,64,64,64]")()
        with torch.no_grad():
            for name, p in trainer.model.named_parameters():
                p.mul_(0.01) if name.endswith("weight") else p.normal_()
        return trainer

    assert "signal vanishes" in profile(dead).saw


def test_linear_network():
    for typed in ([], [DEEP], ["norm=batch"], ["model=cnn"]):
        verdict = linear_network(fresh("activation=identity", *typed))
        assert (verdict.status, "one linear model" in verdict.saw) == (WARN, True), verdict
    small = linear_network(fresh("activation=tanh", "init=small_gaussian", DEEP))
    assert small.status == PASS  # nearly linear weights are no linear network
    assert "a linear model" in linear_network(fresh("model=linear")).saw


def test_baselines():
    assert "10.6%" in baselines(fresh()).saw  # 19 of 180 in validation
    for typed in (["optim.lr=1e-6"], ["optim.lr=100"], ["init=zeros"]):
        assert baselines(fresh(*typed)).status == WARN
    assert baselines(fresh("epochs=1000", "schedule.warmup=0.2")).status == SKIPPED


def test_baselines_warns_of_an_input_that_is_not_used(fresh_of):
    def build():
        return net(Apply(torch.zeros_like), nn.Linear(64, 10))

    assert baselines(fresh_of(build)).status == WARN


def test_batch_norm_is_no_leak_and_is_said():
    verdict = input_ignored(fresh("norm=batch"))
    assert (verdict.status, "as batch norm has" in verdict.saw) == (PASS, True)
    assert "batch norm" not in input_ignored(fresh()).saw


CAUSES = [
    ("data.unnormalised", ["preprocess=none"]),
    ("data.split_shift", ["preprocess.test=none"]),
    ("data.imbalance", ["data.imbalance=0.01"]),
    ("init.zero", ["init=zeros"]),
    ("init.symmetric", ["init=constant"]),
    ("init.too_small", ["init=small_gaussian", DEEP]),
    ("init.too_large", ["init=unit_gaussian", DEEP]),
    ("init.mismatch", ["init.gain=0.7", DEEP]),
    ("grad.vanishing", ["activation=sigmoid", "init=xavier_normal", DEEP]),
    ("act.dead", ["init.bias=-10"]),
    ("arch.linear", ["activation=identity"]),
    ("optim.lr_low", ["optim.lr=1e-5"]),
    ("optim.lr_high", ["optim.lr=100"]),
]


def named(make, **changes):
    """The names that the battery gives, the cause of all before what follows from it."""
    checks = {n: Door()(node) for n, node in bench().cfg.preflight.checks.items()}
    verdicts = [asdict(v) for v in run_checks(checks, make)]
    return [f.id for f in ranked(of_verdicts(verdicts))]


@pytest.mark.parametrize(("cause", "typed"), CAUSES, ids=[name for name, _ in CAUSES])
def test_the_root_cause_is_named_first(cause, typed):
    assert named(fresh(*typed))[0] == cause


def test_every_alarm_of_the_faults_above_has_a_cause():
    made = fresh("init=zeros")
    checks = {n: Door()(node) for n, node in bench().cfg.preflight.checks.items()}
    told = [v for v in run_checks(checks, made) if v.status in (WARN, FAIL)]
    assert len(told) > 3
    assert all(v.cause for v in told), told


# the whole


def test_nothing_is_left_behind_and_verdicts_repeat():
    made = bench()
    checks = {name: Door()(node) for name, node in made.cfg.preflight.checks.items()}
    x, before = made.splits.train.x.clone(), random_state()[0]["rng.torch"]
    first, second = (run_checks(checks, partial(made.fresh, plain=True)) for _ in range(2))
    assert first == second
    assert torch.equal(random_state()[0]["rng.torch"], before)
    assert torch.equal(made.splits.train.x, x)


def test_task_check_judges_and_does_not_train(tmp_path, capsys):
    begun = time.monotonic()
    assert main(["task=check", f"hydra.run.dir={tmp_path}/run"]) == 0
    assert time.monotonic() - begun < 10
    verdicts = json.loads((tmp_path / "run" / "verdicts.json").read_text())
    assert len(verdicts) == 23
    assert {v["status"] for v in verdicts} == {PASS}
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    shown = capsys.readouterr().out
    assert "digits: 1257 / 180 / 360" in shown and "label_shift" in shown


def test_task_check_ends_with_2_where_training_cannot_work(tmp_path, capsys):
    typed = ["task=check", "init=unit_gaussian", "init.gain=1e30", "quiet=true"]
    assert main([*typed, f"hydra.run.dir={tmp_path}/run"]) == 2
    assert "preflight initial_loss" in capsys.readouterr().err
    assert main(["task=check", "preflight=quick", "quiet=true",
                 f"hydra.run.dir={tmp_path}/two"]) == 0  # fmt: skip
    assert len(json.loads((tmp_path / "two" / "verdicts.json").read_text())) == 5


def test_a_sweep_of_checks_ends_well(tmp_path):
    assert main(["-m", "task=check", "preflight=quick", "seed=0,1", "quiet=true",
                 f"hydra.sweep.dir={tmp_path}/sweep"]) == 0  # fmt: skip
    assert len(list(tmp_path.glob("sweep/*/verdicts.json"))) == 2
