"""Every schedule word against torch's scheduler or the paper's formula, and in range everywhere."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch.optim import lr_scheduler

from trainlab.config import words
from trainlab.config.build import Door
from trainlab.errors import ConfigError
from trainlab.optim import schedule

WORDS = words.groups()["schedule"]


def schedule_of(word, **keys):
    return Door()(OmegaConf.load(words.conf() / "schedule" / f"{word}.yaml"), **keys)


def theirs(steps, scheduler, **keys):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    made, seen = scheduler(optimizer, **keys), []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        made.step()
    return seen


@settings(deadline=None)
@given(st.sampled_from(WORDS), st.integers(1, 500), st.floats(0, 0.99))
def test_every_word_stays_in_0_1_at_every_step(word, steps, warmup):
    for make in (schedule_of(word), schedule_of(word, warmup=warmup)):
        factors = [make(k, steps) for k in range(steps)]
        assert all(0 <= factor <= 1 for factor in factors)  # false for nan
        assert max(factors) > 0


@pytest.mark.parametrize("word", WORDS)
def test_any_warms_up_and_then_runs_over_what_is_left(word):
    warm, plain = schedule_of(word, warmup=0.2), schedule_of(word, warmup=0.0)
    seen = [warm(k, 50) for k in range(50)]
    first = plain(0, 40)  # up to where the schedule itself begins, without a jump
    assert seen[:10] == pytest.approx([(k + 1) / 10 * first for k in range(10)])
    assert seen[10:] == [plain(k, 40) for k in range(40)]
    assert words.file_values("schedule", word)["schedule.warmup"] == pytest.approx(
        0.1 if word in ("warmup_cosine", "warmup_stable_decay", "inverse_sqrt") else 0.0
    )


TWINS = {
    "exponential": (
        lambda k: schedule.exponential(k, 40, final=0.05),
        lr_scheduler.ExponentialLR, {"gamma": 0.05 ** (1 / 40)},
    ),
    "linear": (
        lambda k: schedule.linear(k, 40, final=0.2),
        lr_scheduler.LinearLR, {"start_factor": 1.0, "end_factor": 0.2, "total_iters": 40},
    ),
    "polynomial": (
        lambda k: schedule.polynomial(k, 40, power=0.9),
        lr_scheduler.PolynomialLR, {"total_iters": 40, "power": 0.9},
    ),
    "cosine_restarts": (
        lambda k: schedule.cosine_restarts(k, 70, cycles=3, growth=2, final=0.1),
        lr_scheduler.CosineAnnealingWarmRestarts, {"T_0": 10, "T_mult": 2, "eta_min": 0.1},
    ),
    "one_cycle": (
        lambda k: schedule.one_cycle(k, 41, peak=0.25, start=0.04, final=4e-6),
        lr_scheduler.OneCycleLR, {"max_lr": 1.0, "total_steps": 41, "pct_start": 0.25,
                                  "cycle_momentum": False},
    ),
    "cyclic": (
        lambda k: schedule.cyclic(k, 40, cycles=4, low=0.1),
        lr_scheduler.CyclicLR, {"base_lr": 0.1, "max_lr": 1.0, "step_size_up": 5,
                                "cycle_momentum": False},
    ),
    "multistep": (
        lambda k: schedule_of("multistep")(k, 40),
        lr_scheduler.MultiStepLR, {"milestones": [12, 24, 32], "gamma": 0.2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("word", TWINS)
def test_equals_torchs(word):
    mine, scheduler, keys = TWINS[word]
    steps = 70 if word == "cosine_restarts" else 40
    assert [mine(k) for k in range(steps)] == pytest.approx(
        theirs(steps, scheduler, **keys), rel=1e-9, abs=1e-12
    )


def test_inverse_time_and_inverse_sqrt_are_the_formulas():
    for k in range(100):
        assert schedule.inverse_time(k, 100, rate=4) == pytest.approx(1 / (1 + 4 * k / 100))
        # Vaswani et al., equation 3, divided by its highest value: w = 100 warm-up steps of 1000
        n = k * 9 + 101
        paper = min(n**-0.5, n * 100**-1.5) / 100**-0.5
        assert schedule.inverse_sqrt(n, 1000, rate=9, warmup=0.1) == pytest.approx(paper)


def test_warmup_stable_decay():
    seen = [schedule.warmup_stable_decay(k, 100, decay=0.2, final=0.5) for k in range(100)]
    assert seen[:81] == pytest.approx([1.0] * 81)
    assert seen[81:] == pytest.approx([1 - 0.5 * k / 20 for k in range(1, 20)])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.data())
def test_piecewise_is_numpys_interp(at, data):
    import numpy as np

    at = sorted(set(at))
    factors = data.draw(st.lists(st.floats(0, 2), min_size=len(at), max_size=len(at)))
    for k in range(30):
        assert schedule.piecewise(k, 30, at=at, factors=factors) == pytest.approx(
            np.interp(k / 30, at, factors), rel=1e-6, abs=1e-9
        )


def test_piecewise_jumps_where_a_position_stands_twice():
    seen = [schedule.piecewise(k, 10, at=[0, 0.5, 0.5], factors=[1, 1, 0.1]) for k in range(10)]
    assert seen == [1] * 5 + [0.1] * 5


@pytest.mark.parametrize("keys", [{"at": [0.0, 1.0]}, {"at": [0.5, 0.2, 1.0]}, {"at": []}])
def test_piecewise_refuses_points_that_do_not_fit(keys):
    with pytest.raises(ConfigError, match="schedule.at = "):
        schedule.piecewise(0, 10, **keys)


def test_an_exponential_to_zero_is_refused():
    with pytest.raises(ConfigError, match="schedule.final=0.01"):
        schedule.exponential(0, 10, final=0.0)


@given(
    st.lists(st.floats(-3, 3), max_size=60),
    st.integers(0, 4),
    st.integers(0, 3),
    st.sampled_from([0.0, 1e-4, 0.5]),
)
def test_plateau_is_torchs_reduce_on_plateau(values, patience, cooldown, threshold):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reduce = lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=patience, cooldown=cooldown, threshold=threshold,
        threshold_mode="abs", min_lr=0.03, eps=0.0,
    )  # fmt: skip
    keys = {"factor": 0.5, "patience": patience, "cooldown": cooldown, "threshold": threshold}
    history = []
    for step, value in enumerate(values):
        reduce.step(value)
        history.append((step, value))
        mine = schedule.plateau(final=0.03, **keys).rule(step, len(values), history=history)
        assert mine == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


def test_plateau_falls_after_patience_and_not_before():
    flat = [(k, 1.0) for k in range(7)]
    plateau = schedule.plateau(patience=5)
    assert plateau.rule(0, 1, history=flat[:6]) == 1.0
    assert plateau.rule(0, 1, history=flat) == 0.1


def test_the_key_warmup_is_seen_from_outside():
    import inspect

    assert "warmup" in inspect.signature(schedule.linear).parameters
    assert math.isclose(schedule.cosine(5, 10, warmup=0.5), 1.0)
