"""The report of the fault benchmark on made-up runs, whose figures are counted by hand."""

import json
import math
import random
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))
import fault_pool as fp
import fault_report as fr
from fault_picture import _shade


def finding(name, severity="warning", step=0):
    return {"id": name, "severity": severity, "since_step": step}


def fault(word, *findings, seed=0, accuracy=0.1, twin=0.95, **more):
    row = {
        "pool": "report", "kind": "fault", "fault": word, "right": [word.replace("_", ".", 1)],
        "invariant": False, "silent": False, "severity": 1.0, "subject": "mlp", "private": False,
        "seed": seed, "final": {"accuracy": accuracy + 0.01 * seed, "loss": 2.0 + 0.01 * seed},
        "twin": {"accuracy": twin - 0.005 * seed, "loss": 0.2}, "findings": list(findings),
        "published": {"autotrainer": [], "deepdiagnosis": [], "thedeepchecker": []},
        "steps": 150, "seconds": 1.0,
    }  # fmt: skip
    return row | more


def healthy(*findings, variant="warm-up", **more):
    row = fault("init_zero", *findings, accuracy=0.95)
    return row | {"kind": "healthy", "fault": None, "right": [], "variant": variant} | more


def lines(text, start):
    return [line for line in text.splitlines() if line.startswith(start)]


def cells(text, start):
    """Of the first row that starts so, without its bars."""
    return [cell.strip() for cell in lines(text, f"| {start} |")[0].strip("|").split("|")][1:]


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.308498),  # published: 1 - .025^(1/10)
        (10, 10, 0.691502, 1.0),
        (1, 10, 0.002529, 0.445016),
        (5, 10, 0.187086, 0.812914),
        (0, 300, 0.0, 0.012221),
        (7, 2000, 0.001408, 0.007198),
    ],
)
def test_intervals(k, n, low, high):
    assert fp.interval(k, n) == pytest.approx((low, high), abs=2e-6)


def test_intervals_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    for k, n in [(3, 7), (40, 41), (950, 1000), (1490, 1500)]:
        expected = stats.binomtest(k, n).proportion_ci(method="exact")
        assert fp.interval(k, n) == pytest.approx(tuple(expected), abs=1e-9)


def test_t_test_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    draw = random.Random(0)
    for n in (2, 3, 4, 5, 6, 10, 21):
        sample = [draw.gauss(0.7, 1) for _ in range(n)]
        assert fp.t_test(sample) == pytest.approx(stats.ttest_1samp(sample, 0).pvalue, abs=1e-12)
    # by hand: mean 2, sd 1, n 3: t = 3.4641; df 2: p = 1 - t / sqrt(2 + t^2) = 0.074180
    assert fp.t_test([1.0, 2.0, 3.0]) == pytest.approx(0.074180, abs=1e-6)
    assert fp.t_test([0.0, 0.0, 0.0]) == 1 and fp.t_test([0.3, 0.3, 0.3]) == 0


def test_cohen():
    assert fp.cohen([1.0, 2.0, 3.0], [2.0, 3.0, 4.0]) == pytest.approx(-1.0)
    assert fp.cohen([1.0, 1.0], [1.0, 1.0]) == 0 and fp.cohen([2.0, 2.0], [1.0, 1.0]) == math.inf


def level(differences, **more):
    """Three seeds whose accuracies and losses are this much off."""
    return [
        fault("x_y", seed=i)
        | {"final": {"accuracy": 0.9 + d, "loss": 0.3}, "twin": {"accuracy": 0.9, "loss": 0.3}}
        | more
        for i, d in enumerate(differences)
    ]


def test_which_levels_hurt():
    assert fp.hurts(level([-0.3, -0.31, -0.29]))
    assert fp.hurts(level([0.3, 0.31, 0.29]))  # a difference in either direction
    assert not fp.hurts(level([-0.3, 0.31, 0.0])) and not fp.hurts(level([0.0, 0.0, 0.0]))
    assert fp.hurts(level([0.0, 0.0, 0.0], silent=True))
    assert fp.hurts(level([-0.06])) and not fp.hurts(level([-0.04]))  # no test with one seed


def test_a_significant_difference_can_be_too_small():
    rows = level([-0.010, -0.011, -0.009])
    for row, spread in zip(rows, (-0.1, 0.0, 0.1), strict=True):  # d = .1, p < .01
        for who in ("final", "twin"):
            row[who]["accuracy"] += spread
    assert not fp.hurts(rows)


@pytest.mark.parametrize("broken", [math.nan, None, math.inf])
def test_runs_that_broke_hurt(broken):
    rows = level([0.0, 0.0, 0.0, 0.0])
    rows[0]["final"] = {"accuracy": 0.1, "loss": broken}
    assert not fp.hurts(rows)
    rows[1]["final"] = {"accuracy": 0.1, "loss": broken}
    assert fp.hurts(rows)
    rows[0]["final"] = rows[1]["final"] = None
    assert fp.hurts(rows)


@pytest.fixture
def rows():
    zero, high = finding("init.zero", "error"), finding("optim.lr_high", step=40)
    zero_grad = "loop.no_zero_grad"
    named = {"autotrainer": ["dying"], "deepdiagnosis": ["numerical"], "thedeepchecker": []}
    alarm = {"autotrainer": [], "deepdiagnosis": ["dead_node"], "thedeepchecker": ["w_slow"]}
    return [
        # right first, in preflight; the info is no name
        *(
            fault("init_zero", finding("arch.bias", "info"), zero, seed=s, invariant=True,
                  published=named)
            for s in range(3)
        ),
        # second of two, within 50 steps
        fault("loop_no_zero_grad", high, finding("loop.no_zero_grad", step=45), seed=0),
        # only a wrong name, late
        fault("loop_no_zero_grad", finding("optim.lr_high", step=60), seed=1),
        # fourth name: detected, not among three
        fault("loop_no_zero_grad", *map(finding, ["a.a", "b.b", "c.c", zero_grad]), seed=2),
        # not detected
        *(fault("reg_dropout_high", seed=s, private=True) for s in range(3)),
        # benign, and what is said there does not count
        *(
            fault("optim_eps", finding("q.q", "error"), seed=s)
            | {"final": {"accuracy": 0.9, "loss": 0.2}, "twin": {"accuracy": 0.9, "loss": 0.2}}
            for s in range(3)
        ),
        healthy(), healthy(), healthy(finding("optim.lr_high"), published=alarm),
        healthy(finding("init.zero", "error"), variant="tiny batch"),
        healthy(finding("arch.bias", "info"), variant="tiny batch"),
        fault("init_zero", zero, accuracy=0.1, pool="fit"),
    ]  # fmt: skip


def test_the_figures(rows):
    text = fr.report(rows)
    assert cells(text, "effective faults detected")[0].startswith("6 of 9 = 66.7% [29.9%, 92.5%]")
    assert cells(text, "effective faults detected")[1:] == [
        ">= 95%", "**missed**", "reg.dropout_high (3)",
    ]  # fmt: skip
    assert cells(text, "state invariants detected")[0].startswith("3 of 3 = 100.0%")
    assert cells(text, "state invariants detected")[2] == "met"
    assert cells(text, "right name first")[0].startswith("3 of 9 ")
    assert "loop.no_zero_grad -> optim.lr_high (2)" in cells(text, "right name first")[3]
    assert cells(text, "right name among three")[0].startswith("4 of 9 ")
    # given: 3 + 2 + 1 + 3 of faulty runs, 2 of healthy ones; right: 3 + 1
    assert cells(text, "names given that are right")[0].startswith("4 of 11 ")
    assert cells(text, "false alarms on healthy runs, error")[0].startswith("1 of 5 ")
    assert cells(text, "false alarms on healthy runs, warning")[0].startswith("2 of 5 ")
    assert "optim.lr_high (1)" in cells(text, "false alarms on healthy runs, warning")[3]
    assert cells(text, "found in preflight (step 0)")[0].startswith("4 of 9 ")
    assert cells(text, "found within 50 steps")[0].startswith("5 of 9 ")
    private = cells(text, "of them through private modules: detected")
    assert private[0].startswith("0 of 3 ")


def test_the_rules_of_others(rows):
    text = fr.report(rows)
    auto = cells(text, "autotrainer")
    assert [cell[:6] for cell in auto[:3]] == ["3 of 9", "3 of 9", "0 of 5"]
    deep = cells(text, "deepdiagnosis")
    assert [cell[:6] for cell in deep[:3]] == ["3 of 9", "3 of 9", "1 of 5"]
    assert deep[3] == "dead_node (1)"
    assert [c[:6] for c in cells(text, "trainlab")[:3]] == ["6 of 9", "5 of 9", "2 of 5"]


def test_tables_by_fault_and_variant(rows):
    text = fr.report(rows)
    assert cells(text, "init_zero") == ["3", "3", "3", "3", "3", ""]
    assert cells(text, "loop_no_zero_grad") == ["3", "3", "3", "0", "1", "optim.lr_high (2)"]
    assert cells(text, "reg_dropout_high") == ["3", "3", "0", "0", "0", "(nothing) (3)"]
    assert cells(text, "optim_eps") == ["3", "0", "0", "0", "0", ""]
    assert "1 are benign: optim_eps 1 on mlp." in text
    assert cells(text, "warm-up") == ["3", "1", "optim.lr_high (1)"]
    assert cells(text, "tiny batch") == ["2", "1", "init.zero (1)"]
    assert lines(text, "- ") == [
        "- reg.dropout_high was called (nothing): 3 runs",
        "- loop.no_zero_grad was called optim.lr_high: 2 runs",
    ]


def test_the_fitted_pool_is_told_apart(rows):
    text = fr.report(rows)
    fitted = text[text.index("## The pool that the thresholds were fitted on") :]
    assert cells(fitted, "effective faults detected")[0].startswith("1 of 1 ")
    assert cells(fitted, "false alarms on healthy runs, error")[:3] == ["no runs", "<= 1%",
                                                                        "not measured"]  # fmt: skip


def test_no_runs_at_all():
    assert "not measured" in fr.report([])


def test_the_text_before_the_marker_stays(rows, tmp_path):
    Image = pytest.importorskip("PIL.Image")
    results, page, picture = tmp_path / "r.jsonl", tmp_path / "doctor.md", tmp_path / "c.png"
    results.write_text("\n".join(map(json.dumps, rows)) + "\n")
    page.write_text(f"# Mine\n\nkept\n\n{fr.MARKER}\n\nold figures\n")
    fr.main(str(results), str(page), str(picture))
    once = page.read_text()
    assert once.startswith(f"# Mine\n\nkept\n\n{fr.MARKER}\n\n## ") and "old figures" not in once
    assert once.rstrip().endswith("![confusion matrix](c.png)")
    fr.main(str(results), str(page), str(picture))
    assert page.read_text() == once
    with Image.open(picture) as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
        assert {_shade(1.0, True, "x"), _shade(1.0, False, "x")} <= colours


def test_a_new_page(rows, tmp_path):
    pytest.importorskip("PIL.Image")
    results, page = tmp_path / "r.jsonl", tmp_path / "doctor.md"
    results.write_text(json.dumps(rows[0]))
    fr.main(str(results), str(page), str(tmp_path / "c.png"))
    assert page.read_text().startswith("# ") and page.read_text().count(fr.MARKER) == 1
