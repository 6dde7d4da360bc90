"""Each number of the doctor's rules (docs/doctor.md, docs/thresholds.json): just on this side of it
nothing is said, just on the other side the rule speaks."""

import pytest
from made_rows import STUCK, by_layer, loss, names, rows

from trainlab.doctor.examine import findings

SLOW = {"train/loss": 2.0, "val/loss": 2.0}  # it has not halved, and is not at chance
HEART = {"train/accuracy": 1.0, "train/loss": 0.01, "val/accuracy": 0.7, "val/loss": 1.1}
FALLING = {"train/accuracy": 0.6, "val/accuracy": 0.55}


def climbing(best, rise, at=180):
    """A validation loss that is `best` at step `at` and `rise` above it three rows before the
    end, beside a training loss that falls."""
    val = lambda step, _: best + rise * abs(step - at) / (540 - at)  # noqa: E731
    return {"val/loss": val, "train/loss": lambda step, _: loss(step)}


def last(before, now, start=600):
    """`now` from step `start` on."""
    return lambda step, _: now if step >= start else before


def first_of(profile):
    """A profile over three layers as powers of ten."""
    return by_layer(*(10.0**power for power in profile))


def lr(share, length):
    """A schedule of 100 places that falls to this share of its peak after so many."""
    return {"curve": [0.05] * length + [0.05 * share] * (100 - length)}


# what is measured: (finding, changes where nothing is said, changes where it is)
EDGES = {
    "overfit: 1.4 times the best": ("fit.overfit", climbing(0.6, 0.235), climbing(0.6, 0.245)),
    "overfit: 0.1 of chance": ("fit.overfit", climbing(0.3, 0.225), climbing(0.3, 0.236)),
    "overfit: 5 after the best": ("fit.overfit", climbing(0.6, 3, 360), climbing(0.6, 3, 300)),
    "by heart: 0.2 apart": (
        "fit.overfit",
        HEART | {"val/accuracy": 0.81},
        HEART | {"val/accuracy": 0.79},
    ),
    "by heart: 0.98 in training": (
        "fit.overfit",
        HEART | {"train/accuracy": 0.979},
        HEART | {"train/accuracy": 0.981},
    ),
    "by heart: a quarter of the loss": (
        "fit.overfit",
        HEART | {"train/loss": 0.28},
        HEART | {"train/loss": 0.27},
    ),
    "by heart: 2 % better": (
        "fit.overfit",
        HEART | {"val/loss": last(1.1, 1.07)},
        HEART | {"val/loss": last(1.1, 1.085)},
    ),
    "diverged: 3 times the start": ("optim.lr_high", {"train/loss": 7.1}, {"train/loss": 7.3}),
    "leap: 0.1 of the weights": (
        "optim.lr_high",
        STUCK | {"update_ratio": 0.099},
        STUCK | {"update_ratio": 0.101},
    ),
    "crawl: 1e-4 of the weights": (
        "optim.lr_low",
        STUCK | {"update_ratio": 1.01e-4},
        STUCK | {"update_ratio": 0.99e-4},
    ),
    "crawl: 0.9 of the start": (
        "optim.lr_low",
        {"train/loss": 2.15, "update_ratio": 1e-6},
        {"train/loss": 2.17, "update_ratio": 1e-6},
    ),
    "at chance: 0.95 of its loss": (
        "fit.at_chance",
        STUCK | {"train/loss": 2.18},
        STUCK | {"train/loss": 2.19},
    ),
    "at chance: 0.05 of accuracy": (
        "fit.at_chance",
        STUCK | {"train/accuracy": 0.151},
        STUCK | {"train/accuracy": 0.149},
    ),
    "spike: 3 times the rows before": (
        "loss.spike",
        {"train/loss": last(1.0, 2.95, 550)},
        {"train/loss": last(1.0, 3.05, 550)},
    ),
    "spike: 0.3 of chance": (
        "loss.spike",
        {"train/loss": last(0.1, 0.68, 550)},
        {"train/loss": last(0.1, 0.70, 550)},
    ),
    "split shift: half of chance": (
        "data.split_shift",
        {"train/loss": 1.0, "val/loss": 2.14},
        {"train/loss": 1.0, "val/loss": 2.16},
    ),
    "split shift: twice the loss": (
        "data.split_shift",
        {"train/loss": 1.2, "val/loss": 2.39},
        {"train/loss": 1.2, "val/loss": 2.41},
    ),
    "split shift: 0.3 of accuracy": (
        "data.split_shift",
        {"train/loss": 0.5, "val/loss": 1.1, "val/accuracy": 0.51},
        {"train/loss": 0.5, "val/loss": 1.1, "val/accuracy": 0.49},
    ),
    "random labels: 0.15 learned": (
        "data.labels_random",
        {"train/accuracy": 0.245, "val/accuracy": 0.1},
        {"train/accuracy": 0.255, "val/accuracy": 0.1},
    ),
    "random labels: 0.05 of chance": (
        "data.labels_random",
        {"val/accuracy": 0.151},
        {"val/accuracy": 0.149},
    ),
    "clipped: half of the steps": (
        "optim.overclipped",
        SLOW | {"optim/clipped": 0.49},
        SLOW | {"optim/clipped": 0.51},
    ),
    "decay: the loss": (
        "reg.weight_decay_high",
        STUCK | {"penalty/l2": 2.30},
        STUCK | {"penalty/l2": 2.31},
    ),
    "decay: 0.3 of the weights": (
        "reg.weight_decay_high",
        STUCK | {"weight_norm": last(5.0, 1.55, 2)},
        STUCK | {"weight_norm": last(5.0, 1.45, 2)},
    ),
    "schedule: a fifth": ("sched.wrong_unit", lr(0.001, 21), lr(0.001, 20)),
    "schedule: 1 % of the peak": ("sched.wrong_unit", lr(0.0101, 10), lr(0.0099, 10)),
    "undertrained: 0.9 accuracy": (
        "fit.undertrained",
        FALLING
        | {"train/loss": last(1.0, 0.85), "val/loss": last(1.0, 0.9), "train/accuracy": 0.901},
        FALLING
        | {"train/loss": last(1.0, 0.85), "val/loss": last(1.0, 0.9), "train/accuracy": 0.899},
    ),
    "undertrained: falls by 0.1": (
        "fit.undertrained",
        FALLING | {"train/loss": last(1.0, 0.91), "val/loss": last(1.0, 0.9)},
        FALLING | {"train/loss": last(1.0, 0.89), "val/loss": last(1.0, 0.9)},
    ),
    "undertrained: validation by 0.05": (
        "fit.undertrained",
        FALLING | {"train/loss": last(1.0, 0.85), "val/loss": last(1.0, 0.96)},
        FALLING | {"train/loss": last(1.0, 0.85), "val/loss": last(1.0, 0.94)},
    ),
    "metric: 0.3 of chance": (
        "metric.inconsistent",
        {"train/loss": 0.70, "train/accuracy": 0.1},
        {"train/loss": 0.68, "train/accuracy": 0.1},
    ),
    "metric: an even constant answer": (
        "metric.inconsistent",
        {"train/accuracy": 0.1, "chance/accuracy": 0.51},
        {"train/accuracy": 0.1, "chance/accuracy": 0.49},
    ),
    "gradient: 2 decades down": (
        "grad.vanishing",
        {"gradient_norm": first_of((-1.95, -1, 0))},
        {"gradient_norm": first_of((-2.05, -1, 0))},
    ),
    "gradient: 2 decades up": (
        "grad.exploding",
        {"gradient_norm": first_of((1.95, 1, 0))},
        {"gradient_norm": first_of((2.05, 1, 0))},
    ),
    "gradient: underflow": (
        "grad.vanishing",
        {"gradient_norm": by_layer(1e-34, 1e-32, 0.99e-30)},
        {"gradient_norm": by_layer(1e-34, 1e-32, 1.01e-30)},
    ),
    "signal: 3 decades down": (
        "init.too_small",
        {"activation_unit_std": first_of((0, -1, -2.95))},
        {"activation_unit_std": first_of((0, -1, -3.05))},
    ),
    "signal: 2 decades up": (
        "init.too_large",
        {"activation_std": first_of((0, 1, 1.95))},
        {"activation_std": first_of((0, 1, 2.05))},
    ),
    "signal: 0.01 of the spread": (
        "act.no_signal",
        {"activation_unit_std/02": 0.0101},
        {"activation_unit_std/02": 0.0099},
    ),
    "dead: 0.75 of the units": (
        "act.dead",
        SLOW | {"activation_dead/01": 0.74},
        SLOW | {"activation_dead/01": 0.76},
    ),
    "dead: 0.95 though it learns": (
        "act.dead",
        {"activation_dead/01": 0.94},
        {"activation_dead/01": 0.96},
    ),
    "dead: half of the loss": (
        "act.dead",
        {"activation_dead/01": 0.8, "train/loss": 1.15},
        {"activation_dead/01": 0.8, "train/loss": 1.16},
    ),
    "modes: 3 times the other": (
        "norm.mode",
        {"modes/train_loss": 1.0, "modes/eval_loss": 2.95},
        {"modes/train_loss": 1.0, "modes/eval_loss": 3.05},
    ),
    "modes: 0.05 of chance": (
        "norm.mode",
        {"modes/train_loss": 0.05, "modes/eval_loss": 0.16},
        {"modes/train_loss": 0.05, "modes/eval_loss": 0.17},
    ),
    "dropout: 0.7 of the units": (
        "reg.dropout_high",
        SLOW | {"modes/dropout": 0.69},
        SLOW | {"modes/dropout": 0.71},
    ),
    "memory: 0.98 is learned": (
        "grad.vanishing",
        {"gradient_norm": by_layer(1e-7, 1e-4, 0.1), "train/accuracy": 0.981},
        {"gradient_norm": by_layer(1e-7, 1e-4, 0.1), "train/accuracy": 0.979},
    ),
}


@pytest.mark.parametrize("what", EDGES)
def test_a_rule_speaks_beyond_its_threshold_and_not_before(what):
    name, silent, spoken = EDGES[what]
    assert name not in names(silent)
    assert name in names(spoken)


@pytest.mark.parametrize(
    "sides, usual, wide, limit",
    [(2, 0.03, 0.3, 0.5), (2, 0.3, 0.75, 0.75), (1, 0.2, 0.5, 0.85)],
    ids=["two sides", "two sides, narrow", "one side"],
)
def test_a_share_of_flat_elements_by_the_form_of_the_activation(sides, usual, wide, limit):
    form = {"flat_sides": sides, "flat_usual": usual, "flat_wide": wide}

    def seen(share):
        row = {f"activation_{name}/01.own": v for name, v in (form | {"saturated": share}).items()}
        return [f.id for f in findings([{"step": s, "train/loss": 2.0} | row for s in (1, 2, 3)])]

    assert seen(limit - 0.01) == []
    assert seen(limit + 0.01) == ["act.saturated"]


def test_a_spike_has_passed_below_1_2_times_the_rows_before():
    def back(to):
        return {"train/loss": lambda step, _: {550: 4.0, 600: to}.get(step, 1.0)}

    assert "loss.spike" in names(back(1.21))
    assert "loss.spike" not in names(back(1.19))
    assert "loss.spike" in [f.id for f in findings(rows(back(1.19)))]  # it is told all the same


def test_an_update_of_1e_5_of_the_weights_is_an_error():
    def severity(ratio):
        found = findings(rows(STUCK | {"update_ratio": ratio}))
        return next(f.severity for f in found if f.id == "optim.lr_low")

    assert severity(0.99e-5) == "error"


@pytest.mark.parametrize("steps, said", [(99, ["fit.undertrained"]), (100, [])])
def test_fewer_than_100_steps_are_no_training(steps, said):
    begin = {"step": 0, "chance/loss": 2.303, "chance/accuracy": 0.1, "start/loss": 2.4}
    made = [begin, {"step": steps, "train/loss": 2.25, "train/accuracy": 0.3}]
    assert [f.id for f in findings([*made, {"step": steps, "best/val_loss": 2.25}])] == said
