"""Each rule on rows made by hand: it catches, it does not alarm, it remembers, it is gated."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_rows import LAST, OVERFIT, STUCK, by_layer, loss, names, rows, slope_rows
from torch import nn

from trainlab import examine
from trainlab.cli import compose
from trainlab.config import words
from trainlab.doctor.causes import SETS, explained, ranked
from trainlab.doctor.examine import findings
from trainlab.doctor.finding import MOST, Finding, card, shown
from trainlab.doctor.history import History
from trainlab.doctor.rules import constraints, curves, fit, layers, modes
from trainlab.doctor.rules.layers import decades
from trainlab.errors import NonFiniteError
from trainlab.training.trainer import Trainer

PLANTED = {
    "fit.at_chance": STUCK,
    "optim.lr_high": {"train/loss": lambda step, _: 2.3 * (1 + step / 100)},
    "optim.lr_low": {"train/loss": 2.29, "val/loss": 2.29, "update_ratio": 1e-6},
    "grad.vanishing": {"gradient_norm": by_layer(1e-7, 1e-4, 0.1)},
    "grad.exploding": {"gradient_norm": by_layer(1e3, 10.0, 0.1)},
    "init.too_small": {"activation_unit_std": by_layer(1.0, 1e-3, 1e-6)},
    "init.too_large": {"activation_std": by_layer(1.0, 1e2, 1e4)},
    "act.saturated": {"activation_saturated": 0.7},
    "act.dead": {"activation_dead/01": 0.8, "train/loss": 1.6},
    "act.no_signal": {"activation_unit_std/02": 1e-4},
    "numeric.nonfinite": {"gradient_norm/02": lambda step, _: "nan" if step > 200 else 0.1},
    "loss.spike": {"train/loss": lambda step, _: 6.0 if step > 500 else loss(step)},
    "fit.overfit": OVERFIT,
    "data.split_shift": {"val/loss": 4.0, "val/accuracy": 0.3},
    "data.labels_random": OVERFIT | {"val/accuracy": 0.1},
    "optim.overclipped": {"train/loss": 2.0, "val/loss": 2.0, "optim/clipped": 0.9},
    "reg.weight_decay_high": STUCK | {"penalty/l2": 4.0},
    "fit.undertrained": {
        "train/loss": lambda step, _: 2.2 * 0.997**step,
        "val/loss": lambda step, _: 2.2 * 0.999**step,
        "train/accuracy": 0.6,
        "val/accuracy": 0.55,
    },
    "metric.inconsistent": {"train/accuracy": 0.1, "val/accuracy": 0.1},
    "sched.wrong_unit": {"curve": [0.05] * 10 + [1e-5] * 90},
    "loop.param_not_updated": {"update_ratio/02": 0.0},
    "init.zero": {"low": 0.0, "high": 0.0},
    "init.symmetric": {"low": 0.01, "high": 0.01},
    "norm.mode": {"modes/eval_loss": lambda step, _: 4 * loss(step) if step else 2.6},
    "loop.mode": {"modes/resting": 1.0},
    "reg.dropout_high": STUCK | {"modes/dropout": 0.9, "modes/train_loss": 40.0},
}
SHORT_LIVED = {  # the same at one look only
    "grad.vanishing": {"gradient_norm/01": lambda step, _: 1e-7 if step == 201 else 0.1},
    "init.too_small": {"activation_unit_std/03": lambda step, _: 1e-6 if step == 1 else 0.8},
    "act.saturated": {"activation_saturated": lambda step, _: 0.7 if step == 301 else 0.04},
    "act.dead": {"activation_dead": lambda step, _: 0.9 if step == 120 else 0.0},
    "optim.overclipped": {"optim/clipped": lambda step, _: 0.9 * (step in (50, 100))},
    "optim.lr_low": {"update_ratio": lambda step, _: 1e-6 if step == 201 else 2e-3},
    "fit.overfit": {"val/loss": lambda step, _: loss(step) * (2 if step == 360 else 1)},
    "fit.at_chance": {"train/loss": lambda step, _: 2.303 if step < 150 else loss(step)},
    "norm.mode": {"modes/eval_loss": lambda step, _: (9 if step == 120 else 1) * loss(step)},
    "reg.dropout_high": {"modes/dropout": 0.9, "modes/train_loss": 40.0},  # and it learns
}
GATED = [
    "grad.vanishing", "grad.exploding", "init.too_small", "act.saturated", "act.dead",
    "act.no_signal", "sched.wrong_unit", "init.zero",
]  # fmt: skip


def test_a_healthy_run_has_no_findings():
    assert findings(rows()) == []


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_named_first(name):
    assert names(PLANTED[name])[:1] == [name]


@pytest.mark.parametrize("name", SHORT_LIVED)
def test_one_look_is_not_enough(name):
    assert name not in names(SHORT_LIVED[name])


@pytest.mark.parametrize("name", GATED)
def test_nothing_is_said_once_all_is_learned(name):
    learned = {"train/accuracy": 0.995, "val/accuracy": 0.97}
    assert name not in names(PLANTED[name] | learned)


def test_since_when_and_where():
    (found,) = findings(rows({"activation_dead/02": lambda step, _: 0.97 * (step >= 300)}))
    assert (found.severity, found.layer, found.since_step) == ("error", "02.tanh", 300)
    assert found.tag == "activation_dead/02.tanh"
    assert "97%" in found.evidence
    assert "optim.lr=0.005" in found.remedy


def test_what_has_passed_is_no_alarm():
    changes = {"activation_saturated/01": lambda step, _: 0.9 if step < 300 else 0.04}
    (found,) = findings(rows(changes))
    assert (found.id, found.severity) == ("act.saturated", "info")
    assert "it no longer holds" in found.evidence


class Squash(nn.Module):
    """A tanh that no table knows."""

    def forward(self, x):
        return 1 - 2 / (1 + (2 * x).exp())


class InPlace(nn.Module):
    """A Squash in the activation's place."""

    def __init__(self):
        super().__init__()
        self.activation = Squash()

    def forward(self, x):
        return self.activation(x)


@pytest.mark.parametrize(
    ("function", "share", "alarms"),
    [
        (nn.Sigmoid, 0.6, True), (nn.Tanh, 0.6, True), (nn.Softsign, 0.6, True),
        (nn.Hardtanh, 0.7, False), (nn.Hardtanh, 0.8, True), (InPlace, 0.6, True),
        (nn.Tanh, 0.45, False), (nn.ELU, 0.6, False), (nn.ELU, 0.9, True), (nn.SiLU, 0.9, True),
        (nn.ReLU, 0.9, False), (nn.ReLU6, 0.9, False), (nn.LeakyReLU, 0.9, False),
        (nn.PReLU, 0.9, False),
    ],
)  # fmt: skip
def test_saturation_is_judged_by_the_slope_of_the_activation(function, share, alarms):
    row = {"activation_saturated/01.it": share, "activation_mean/01.x": 0.0, "train/loss": 2.0}
    steps = [{"step": 0, "start/loss": 2.4} | slope_rows(function(), "01.it")]
    steps += [{"step": step} | row for step in (1, 101, 201)]
    assert [f.id for f in findings(steps)] == ["act.saturated"] * alarms


def test_saturation_of_an_activation_whose_slope_nobody_measured_is_not_judged():
    row = {"activation_saturated/01.tanh": 0.9, "activation_mean/01.x": 0.0}
    assert findings([{"step": s} | row for s in (1, 101, 201)]) == []


def test_dead_and_flat_units_are_no_alarm_where_it_learns_all_the_same():
    (found,) = findings(rows({"activation_dead/01": 0.8}))
    assert (found.id, found.severity) == ("act.dead", "info")
    assert found.evidence.endswith("the network still learns")
    (found,) = findings(rows({"activation_dead/01": 0.96}))  # hardly anything passes
    assert found.severity == "error"

    def flat(function, low):
        made = {"activation_saturated/01.it": 0.9}
        steps = [{"step": s, "train/loss": low, "start/loss": 2.4} | made for s in (1, 101, 201)]
        steps[0] |= slope_rows(function, "01.it")
        return [(f.id, f.severity) for f in findings(steps)]

    assert flat(nn.ELU(), 0.5) == [("act.saturated", "info")]
    assert flat(nn.ELU(), 1.6) == flat(nn.Tanh(), 0.5) == [("act.saturated", "warning")]


@pytest.mark.parametrize("loss_of_training", [1.0, 2.2])
def test_a_layer_in_the_wrong_mode_is_exact(loss_of_training):
    """Whatever it learns, however late."""
    learned = {"train/accuracy": 0.99, "val/accuracy": 0.99, "train/loss": loss_of_training}
    (found, *_) = findings(rows(learned | {"modes/live": 0.5}))
    assert (found.id, found.severity, found.since_step) == ("norm.mode", "error", 0)
    assert names({"modes/live": lambda step, _: 0.5 if step == 120 else 0.0}) == []


def test_statistics_are_not_stale_before_the_first_step():
    early = {"modes/eval_loss": lambda step, _: (9 if step <= 60 else 1) * loss(step)}
    assert findings(rows(early)) == []


def test_stale_statistics_matter_until_validation_has_learned():
    heart = PLANTED["norm.mode"] | {"train/accuracy": 1.0}
    assert names(heart | {"val/accuracy": 0.8}) == ["norm.mode"]
    assert names(heart | {"val/accuracy": 0.99}) == []


def test_running_statistics_that_stand_still():
    assert names({"modes/statistics": 5.0}) == ["norm.mode"]
    assert names({"modes/statistics": 5.0, "optim/lr": 0.0}) == []
    assert names({"modes/statistics": lambda step, _: 5.0 if step < 500 else 6.0}) == []


def test_dropout_alone_has_no_stale_statistics_and_own_layers_may_have():
    late = PLANTED["norm.mode"] | {"modes/statistics": None}
    assert names(late) == []
    assert names(late | {"modes/live": None, "modes/dropout": None}) == ["norm.mode"]


def test_dropout_of_any_rate_that_keeps_it_from_learning():
    slow = {"train/loss": 1.9, "val/loss": 1.9, "modes/dropout": 0.6, "modes/statistics": None}
    apart = {"modes/train_loss": 2.2, "modes/eval_loss": 0.6}
    assert names(slow | apart) == ["reg.dropout_high"]
    assert names(slow | apart | {"modes/dropout": 0.0}) == []
    assert names(slow | {"modes/train_loss": 2.2, "modes/eval_loss": 1.8}) == []


def test_a_layer_that_is_not_finite_is_undefined_not_alive():
    """Two looks at dead units with nan between them: nan is no look."""
    shares = {60: 0.9, 120: "nan", 180: 0.9}
    made = [{"step": s, "activation_dead/01.relu": v} for s, v in shares.items()]
    assert [f.id for f in findings(made)] == ["act.dead"]
    made = [{"step": s, "activation_dead/01.relu": "nan"} for s in shares]
    assert findings(made) == []


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_the_first_layer_and_step_that_are_not_finite(bad):
    def value(step, tag):
        return bad if step > 300 or (step > 200 and "02" in tag) else 0.1

    first = findings(rows({"activation_mean": value}))[0]
    assert (first.id, first.layer, first.since_step) == ("numeric.nonfinite", "02.tanh", 201)


def test_a_loss_that_is_not_finite_is_the_lr_unless_no_step_was_taken():
    begin = [{"step": 0, "chance/loss": 2.3, "chance/accuracy": 0.1, "start/loss": 2.4}]
    (found,) = findings([*begin, {"step": 19, "train/loss": "nan"}])
    assert (found.id, found.since_step) == ("optim.lr_high", 19)
    assert findings([*begin, {"step": 1, "train/loss": "nan"}]) == []


def test_a_loss_that_fell_to_chance_after_it_was_high_is_the_lr():
    changes = STUCK | {"train/loss": lambda step, _: 1e5 if step < 100 else 2.31}
    first = findings(rows(changes))[0]
    assert (first.id, first.since_step) == ("optim.lr_high", 50)
    assert first.remedy.startswith("optim.lr=0.005")


def test_the_line_of_a_diverged_run_and_its_finding_name_one_lr():
    """0.05 and 50: a tenth of it, but 0.1 at most."""
    changes = STUCK | {"train/loss": lambda step, _: 1e5 if step < 100 else 2.31}
    for lr, asked in ((0.05, "optim.lr=0.005"), (50.0, "optim.lr=0.1")):
        curve = {"curve": [lr] * 100, "optim/lr": lr}
        assert findings(rows(changes | curve))[0].remedy.startswith(f"{asked} or ")
        with pytest.raises(NonFiniteError, match=f"try {asked}, or"):
            Trainer.diverged(SimpleNamespace(lrs=[lr], schedule=lambda *at: 1.0, steps=9), 5, "x")


def test_warm_up_and_the_end_of_a_decay_are_not_a_low_lr():
    """Updates as small as lr is, at its ends; the loss stands still."""

    def lr(step, _=None):
        return 0.05 * max(math.sin(step / LAST * math.pi), 0) ** 8

    still = {"train/loss": 2.25, "optim/lr": lr, "update_ratio": lambda s, _: 0.05 * lr(s)}
    assert "optim.lr_low" not in names(still)
    assert "optim.lr_low" in names(still | {"update_ratio": lambda s, _: 1e-4 * lr(s)})


def test_overfitting_is_a_trend_not_two_epochs():
    rising = {"train/loss": OVERFIT["train/loss"]}
    late = {"val/loss": lambda step, _: loss(step) + (1.0 if step > 500 else 0.0)}
    assert "fit.overfit" not in names(rising | late)
    flat = {"val/loss": lambda step, _: 0.6 * (1 + step / 10_000)}
    assert "fit.overfit" not in names(rising | flat)


def test_what_still_runs_is_not_undertrained():
    assert "fit.undertrained" not in names(PLANTED["fit.undertrained"] | {"best": None})
    slow = {"train/loss": lambda step, _: 2.2 * 0.999**step}
    assert "fit.undertrained" not in names(PLANTED["fit.undertrained"] | slow)


def test_learned_by_heart_is_overfitting_also_in_a_short_run():
    heart = {"train/accuracy": 1.0, "train/loss": 0.01, "val/accuracy": 0.7, "val/loss": 1.1}
    late = {"val/accuracy": lambda step, _: 0.7 if step > 400 else 0.95}
    assert "fit.overfit" in names(heart)
    assert "fit.overfit" not in names(heart | late | {"val/accuracy": 0.9})
    better = {"val/loss": lambda step, _: 1.1 - step / 1000}
    assert "fit.overfit" not in names(heart | better)


def test_frozen_weights_have_no_gradient_and_are_silent():
    frozen = {"update_ratio/02": 0.0, "weight_gradient_norm/02": None}
    assert names(frozen) == []


def test_a_head_of_zeros_is_a_choice():
    def limit(value):
        seen = iter(range(10**6))
        return lambda step, _: 0.0 if next(seen) % 3 == 2 else value

    assert names({"low": limit(-0.3), "high": limit(0.3)}) == []


def test_profiles_in_decades():
    assert decades({"a": 1e-5, "b": 1e-3, "c": 1.0}) == pytest.approx(-5)
    assert decades({"a": 0.0, "b": 1e-3, "c": 1.0}) == -math.inf  # exactly 0
    assert decades({"a": 0.0, "b": 0.0, "c": 0.0}) == 0.0  # converged: no profile
    assert decades({"a": math.nan, "b": 1.0, "c": 1.0}) == 0.0
    assert decades({"a": 1e-9, "b": 1.0}) == 0.0  # one hidden layer is no depth


def test_rows_without_probes_and_without_chance_are_enough_for_the_curves():
    made = [{"step": s, "train/loss": loss(s) if s < 300 else "nan"} for s in (50, 100, 300)]
    assert [f.id for f in findings(made)] == ["optim.lr_high"]
    assert findings([]) == []


def finding(name, severity="warning"):
    return Finding(name, severity, "", 1, "e", "r", "t")


def test_causes_stand_before_what_they_explain():
    found = [finding("fit.at_chance", "error"), finding("act.dead"), finding("loss.spike")]
    told = ranked(found)
    assert [f.id for f in told] == ["act.dead", "fit.at_chance", "loss.spike"]
    assert told[0].severity == "error"  # nothing was learned because of it
    assert ranked([finding("act.dead", "info"), found[0]])[0].id == "fit.at_chance"


def test_a_leak_explains_that_validation_falls_behind(tmp_path):
    """Both by itself and with what the check of the data said before a run that overfits."""
    (first, then) = ranked([finding("fit.overfit", "error"), finding("data.leak")])
    assert (first.id, then.id, then.follows) == ("data.leak", "fit.overfit", "data.leak")
    text = "".join(json.dumps(row) + "\n" for row in rows(OVERFIT))
    (tmp_path / "metrics.jsonl").write_text(text)
    (tmp_path / "verdicts.json").write_text(json.dumps([verdict("x", "WARN", "data.leak")]))
    found = examine(tmp_path)
    assert [(f.id, f.follows) for f in found] == [("data.leak", ""), ("fit.overfit", "data.leak")]
    apart = ranked([finding("fit.overfit", "error"), finding("optim.lr_low")])
    assert [f.follows for f in apart] == ["", ""]  # not just anything explains it


def test_three_are_shown_and_the_rest_counted():
    found = [finding(f"a.{n}") for n in range(5)]
    assert len(shown(found)) == MOST + 1
    assert shown(found)[-1] == "2 more in findings.json"
    assert shown(found[:2]) == [f.line() for f in found[:2]]
    assert shown([]) == []
    assert card(found).count("\n") == 1 + len(found)


def test_no_cause_explains_itself():
    assert not [cause for cause, follows in explained().items() if cause in follows]


def test_what_a_cause_explains_stands_in_one_file_and_names_findings():
    said = [
        (cause, name)
        for group in ("rule", "check")
        for part in words.parts(group).values()
        for cause, names in part.get("explains", {}).items()
        for name in names
    ]
    assert len(said) == len(set(said)) > 100
    places = [
        [cause for part in words.parts(group).values() for cause in part.get("explains", {})]
        for group in ("rule", "check")
    ]
    causes = [cause for group in places for cause in group]
    assert len(causes) == len(set(causes)) == len(explained())
    root = Path(__file__).resolve().parents[2] / "trainlab"
    files = [*root.glob("doctor/rules/*.py"), *root.glob("checks/*.py")]
    source = "".join(path.read_text() for path in files)
    names = {name for _, name in said} | set(causes)
    unknown = [n for n in names if n not in SETS and f'"{n}"' not in source]
    assert unknown == []  # neither a finding that a rule or check makes nor a set of them


def test_a_leak_explains_that_it_overfits():
    found = [finding("fit.overfit"), finding("data.leak")]
    assert [(f.id, f.follows) for f in ranked(found)] == [
        ("data.leak", ""), ("fit.overfit", "data.leak"),
    ]  # fmt: skip


def test_every_rule_has_a_word_and_a_place_of_its_own():
    places = [part["place"] for part in words.parts("rule").values()]
    assert places == sorted(set(places))
    named = {part["_target_"] for part in words.parts("rule").values()}
    for module in (constraints, curves, fit, layers, modes):
        for name, function in vars(module).items():
            if not name.startswith("_") and getattr(function, "__annotations__", {}) == {
                "h": History,
                "return": list[Finding],
            }:
                assert f"{module.__name__}.{name}" in named
                named.remove(f"{module.__name__}.{name}")
    assert named == set()


def test_of_two_that_explain_each_other_the_earlier_is_the_cause():
    late = replace(finding("grad.exploding"), since_step=9)
    assert ranked([late, finding("optim.lr_high")])[0].id == "optim.lr_high"
    late = replace(finding("optim.lr_high"), since_step=9)
    assert ranked([late, finding("grad.exploding")])[0].id == "grad.exploding"


def verdict(name, status="WARN", cause=""):
    return {"name": name, "status": status, "saw": "s", "advice": "a", "cause": cause}


def test_examine_joins_what_preflight_said(tmp_path):
    text = "".join(json.dumps(row) + "\n" for row in rows(PLANTED["act.dead"] | STUCK))
    (tmp_path / "metrics.jsonl").write_text(text)
    said = [verdict("profile", "WARN", "act.dead"), verdict("overfit", "FAIL"),
            verdict("penalty", "PASS"), verdict("x", "FAIL", "init.zero"),
            verdict("y", "WARN", "init.zero")]  # fmt: skip
    (tmp_path / "verdicts.json").write_text(json.dumps(said))
    found = examine(tmp_path)
    assert [f.id for f in found] == ["init.zero", "act.dead", "fit.at_chance"]
    assert (found[0].severity, found[0].since_step, found[0].tag) == ("error", 0, "preflight")
    assert (found[1].layer, found[1].tag) == ("01.tanh", "preflight")  # the row says where
    assert "profile: s; 80% of the units" in found[1].evidence
    assert [f.follows for f in found] == ["", "init.zero", "act.dead"]
    assert shown(found) == []  # the table of preflight has said it
    (tmp_path / "metrics.jsonl").unlink()
    assert [f.id for f in examine(tmp_path)] == ["init.zero", "act.dead"]
    (tmp_path / "verdicts.json").unlink()
    with pytest.raises(FileNotFoundError):
        examine(tmp_path)


def test_every_remedy_can_be_typed():
    typed = set()
    for changes in PLANTED.values():
        for f in findings(rows(changes)):
            typed |= {tuple(words.split()) for words in f.remedy.split(" or ")}
    with compose.hydra_session() as hydra:
        for words in typed:
            compose.check(hydra, list(words))
    assert len(typed) > 15


def test_examine_reads_a_folder(tmp_path):
    text = "".join(json.dumps(row) + "\n" for row in rows(PLANTED["act.dead"]))
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 700, "train/lo')  # torn
    assert [f.id for f in examine(tmp_path)] == ["act.dead"]
    shutil.copy(tmp_path / "metrics.jsonl", tmp_path / "again")
    assert examine(str(tmp_path)) == examine(tmp_path)


def test_the_rules_need_no_torch():
    code = "import sys; from trainlab.doctor.examine import findings; findings([]); "
    code += "print({'torch', 'omegaconf'} & set(sys.modules))"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
