"""Which settings differ: against SciPy, by simulation, and what is said of it."""

import math
from itertools import count

import numpy as np
import pytest
from ledgers import result

from trainlab.sweeps.results import importance, sentences
from trainlab.sweeps.results.comparison import holm, interval, paired, pairs, settings
from trainlab.sweeps.results.edges import edges


def made(tables, **more):
    """Results of `tables`: setting -> (J, n) losses of J learning rates and n seeds; nan fails."""
    number = count()
    return [
        result(next(number), {"activation": word, "optim.lr": float(j), "seed": seed},
               None if math.isnan(loss) else float(loss), **more)
        for word, table in tables.items()
        for j, row in enumerate(table)
        for seed, loss in enumerate(row)
    ]  # fmt: skip


def test_the_paired_test_is_scipys():
    from scipy import stats

    rng = np.random.default_rng(0)
    for n in (2, 3, 5, 20):
        a, b = rng.normal(size=n), rng.normal(0.5, 2, size=n)
        theirs = stats.ttest_rel(a, b)
        low, high = theirs.confidence_interval(0.95)
        middle, width, p = paired(list(a), list(b))
        assert [middle - width, middle + width, p] == pytest.approx([low, high, theirs.pvalue])
        assert interval(list(a)) == pytest.approx(stats.t.interval(0.95, n - 1, 0, stats.sem(a))[1])


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.001]) == pytest.approx([0.6, 0.002])
    assert holm([0.9, 0.8, 0.7]) == [1, 1, 1]
    assert holm([]) == []


def test_no_spread_is_no_proof():
    assert paired([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]) == (0.0, 0.0, 1.0)
    for n, p in ((2, 0.5), (5, 1 / 16), (6, 1 / 32)):
        assert paired([0.5] * n, [0.25] * n) == (0.25, 0.0, p)
    scores = [0.3, 0.31, 0.32, 0.33, 0.2]
    nearest = [math.nextafter(score, 1) for score in scores]  # a plain t test: p = 0.001
    assert paired(nearest, scores) == (0.0, 0.0, 1.0)
    assert paired([score + 0.1 for score in nearest], scores)[2] == 1 / 16
    assert math.isnan(interval([1.0]))


# (J, n, how far the learning rates lie apart in units of the noise): 2 settings that are equal
NULLS = [(1, 5, 0), (4, 5, 0), (4, 5, 0.5), (2, 2, 0.5), (2, 10, 3)]
FULL = [(j, n, gap) for j in (2, 4, 8) for n in (2, 3, 5, 10) for gap in (0, 0.25, 0.5, 1, 3)]


def simulated(j, n, gap, shift, times, seed=0):
    """Shares of `times` in which two settings, `shift` apart, are called different and in which the
    interval holds `shift`; in which a plain t test calls them different; mean score of the first.
    """
    rng, called, held, plain, scores = np.random.default_rng(seed), 0, 0, 0, []
    for _ in range(times):
        common = rng.normal(size=n)  # what a seed does to both
        noise = rng.normal(size=(2, j, n)) + common + gap * np.arange(j)[:, None]
        found = settings(made({"a": noise[0], "b": noise[1] + shift}), ["optim.lr"])
        (pair,) = pairs(found)
        a, b = sorted(found, key=lambda setting: setting.values["activation"])
        called += pair.differ
        sign = 1 if pair.first is a else -1
        held += abs(sign * pair.difference + shift) <= pair.width
        plain += paired(*([own.scores[s] for s in range(n)] for own in (a, b)))[2] < 0.05
        scores.append(np.mean(list(a.scores.values())))
    return called / times, held / times, plain / times, float(np.mean(scores))


@pytest.mark.parametrize("j, n, gap", NULLS)
def test_equal_settings_are_called_different_at_most_one_time_in_twenty(j, n, gap):
    times = 1000
    called, held, _, mean = simulated(j, n, gap, 0.0, times)
    error = 3 * math.sqrt(0.05 * 0.95 / times)
    assert called <= 0.05 + error
    assert held >= 0.95 - error
    if j == 1 or gap == 3:  # one choice: the plain t test, which is exact
        assert called >= 0.05 - error
    if gap == 0:  # choosing on other seeds does not flatter: every learning rate has mean 0
        assert abs(mean) < 4 * math.sqrt(2 / n / times)


def test_a_plain_t_test_would_call_too_many_different():
    called, _, plain, _ = simulated(4, 10, 0, 0.0, 300)
    assert plain > 0.12
    assert called < 0.09


def test_choosing_on_the_same_seeds_would_flatter():
    rng, same, others = np.random.default_rng(1), [], []
    for _ in range(1000):
        table = rng.normal(size=(4, 5))
        same.append(table.mean(1).min())
        (found,) = settings(made({"relu": table}), ["optim.lr"])
        others.append(found.rank[1])
    assert np.mean(same) < -0.4
    assert abs(np.mean(others)) < 4 * math.sqrt(1 / 5 / 1000)


def test_a_difference_is_seen_and_lies_in_its_interval():
    called, held, _, _ = simulated(4, 5, 1, 3.0, 1000)
    assert called > 0.8
    assert held >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / 1000)


def test_of_many_equal_settings_none_is_called_different():
    rng, wrong, times = np.random.default_rng(2), 0, 1000
    for _ in range(times):
        tables = {word: rng.normal(size=(1, 5)) for word in "abcd"}
        wrong += any(pair.differ for pair in pairs(settings(made(tables))))
    assert wrong / times <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / times)


@pytest.mark.long
@pytest.mark.parametrize("j, n, gap", FULL)
def test_equal_settings_exhaustively(j, n, gap):
    """docs/comparison.md: pytest -m long -s tests/sweeps/results/test_comparison.py"""
    called, held, plain, _ = simulated(j, n, gap, 0.0, 5000)
    print(
        f"\n{j} values {gap} apart, {n} seeds: {called:.3f} called different, {plain:.3f} by plain"
    )
    assert called <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 5000)


def test_each_seed_is_judged_at_what_the_others_chose():
    found = settings(made({"relu": [[0.0, 3, 3], [1, 1, 4]]}), ["optim.lr"])[0]
    assert found.chosen == {0: "optim.lr=1.0", 1: "optim.lr=0.0", 2: "optim.lr=1.0"}
    assert found.scores == {0: 1, 1: 3, 2: 4}
    assert found.commonest == {"optim.lr": 1.0}
    assert found.extra == 1


def test_a_run_that_did_not_finish_is_worse_than_any():
    tables = {"relu": [[0.1, 0.1, math.nan], [5, 5, 5]], "elu": [[9, 9, 9], [9, 9, 9]]}
    found = settings(made(tables), ["optim.lr"])
    relu = found[1]  # it lost a seed, so it is not the best
    assert relu.values == {"activation": "relu"}
    assert relu.chosen == {0: "optim.lr=1.0", 1: "optim.lr=1.0", 2: "optim.lr=0.0"}
    assert set(relu.scores) == {0, 1}
    assert relu.unfinished == 1
    (pair,) = pairs(found)
    assert pair.n == 2  # the seeds that both have
    assert "relu: 1 run did not finish (counts as worst); 1 of 3 seeds is lost" in told(tables)


def test_what_the_search_stopped_is_not_lost():
    found = made({"relu": [[1.0, 2]], "elu": [[math.nan] * 2], "tanh": [[math.nan] * 2]})
    for entry in found[2:5]:  # elu, and a seed of tanh
        entry |= {"state": "dropped", "monitor": {"name": "val/loss", "value": 3.0}}
    lines = sentences.sentences(found, {})
    assert [line for line in lines if "did not finish" in line] == [
        "activation=tanh optim.lr=0: 1 run did not finish (counts as worst); 1 of 2 seeds is lost"
    ]


def test_settings_without_two_common_seeds_are_not_compared():
    number = count()
    found = [result(next(number), {"activation": "relu", "seed": s}, 1.0 + s) for s in (0, 1)]
    found += [result(next(number), {"activation": "elu", "seed": s}, 1.0) for s in (1, 2)]
    assert pairs(settings(found)) == []
    lines = sentences.sentences(found, {})
    assert lines[1].startswith("no two settings finished two seeds in common (runs failed")
    assert not any("repeats=" in line for line in lines)  # they were typed


def test_of_accuracy_more_is_better():
    found = made({"relu": [[2, 2, 2.5]], "elu": [[1, 1.1, 1.3]]}, monitor="val/accuracy")
    ordered = settings(found)
    assert ordered[0].values["activation"] == "elu"
    assert pairs(ordered)[0].difference < 0  # of scores, lower is better


def told(tables, nuisance=("optim.lr",), **sweep):
    return sentences.sentences(made(tables), {"nuisance": nuisance, "axes": {}, **sweep})


def test_sentences():
    rng = np.random.default_rng(3)
    base = rng.normal(5, 0.1, size=(1, 5))
    near, far = base + rng.normal(0, 0.05, size=(1, 5)), base + 2 + rng.normal(0, 0.05, (1, 5))
    lines = told({"relu": base, "elu": near, "sigmoid": far})
    assert lines[0].startswith("best of 3: ")
    assert " over 5 seeds: val loss " in lines[0]
    assert "; of this one only, test loss " in lines[0]
    assert sum("within noise (difference " in line for line in lines) == 1
    assert sum(" is better than sigmoid (difference -2" in line for line in lines) == 2
    assert any("p < 0.001, n 5)" in line for line in lines)
    assert any("Holm over 3 pairs" in line for line in lines)


def test_one_seed_cannot_tell():
    lines = told({"relu": [[1.0]], "elu": [[2.0]]})
    assert any("n = 1" in line and "repeats=5" in line for line in lines)
    assert not any("better" in line or "noise" in line for line in lines)


def test_a_nuisance_chosen_on_the_only_seed_is_said_to_flatter():
    number = count()
    found = [result(next(number), {"optim.lr": lr}, lr) for lr in (0.1, 0.2)]
    lines = sentences.sentences(found, {"nuisance": ["optim.lr"]})
    assert lines[0].startswith("all at optim.lr=0.1 (0000_optim.lr=0.1): val ")
    assert lines[1].startswith("one seed (n = 1): the best optim.lr was chosen on the seed")
    lines = told({"relu": [[1.0, 2], [3, 4]]})
    assert lines[0].startswith("relu at optim.lr=0.0 (2 of 2 seeds), over 2 seeds: ")
    assert not any("n = 1" in line for line in lines)  # chosen on the other seed


def test_a_choice_that_changes_is_told_and_widens():
    tables = {"relu": [[0.0, 3, 3], [1, 1, 4]], "elu": [[1.0, 2, 3], [9, 9, 9]]}
    assert any("of relu changes from seed to seed" in line for line in told(tables))
    scores = [1.0, 2.0, 4.0], [0.0, 0.0, 0.0]
    assert paired(*scores, 1)[1] == pytest.approx(paired(*scores)[1] * 2)  # (1/3 + 1) * 3


def test_identical_settings_and_nothing_finished():
    same = [[1.0, 2.0, 3.0]]
    assert "relu and elu: identical on each of 3 seeds" in told({"relu": same, "elu": same})
    assert told({"relu": [[math.nan]]}) == ["no run finished: nothing to compare"]


def test_many_settings_are_told_against_the_best():
    rng = np.random.default_rng(4)
    tables = {f"word{i}": i // 4 * 50 + rng.normal(100, 1, size=(1, 5)) for i in range(8)}
    lines = told(tables)
    assert any(" is better than 4 of 7" in line for line in lines)
    assert any(line.startswith("within noise of it (3): word") for line in lines)


def test_the_nuisance_key_is_suggested():
    lines = told({"relu": [[1.0, 2], [3, 4]], "elu": [[1.0, 2], [3, 4]]}, nuisance=())
    assert any("sweep.nuisance=[optim.lr]" in line for line in lines)


@pytest.mark.parametrize(
    "key, tried, best, axis, said",
    [
        ("optim.lr", [0.3, 0.1, 0.03], 0.3, None, "the largest tried: try higher"),
        ("optim.lr", [0.3, 0.1, 0.03], 0.03, None, "the smallest tried: try lower"),
        ("optim.lr", [0.3, 0.1, 0.03], 0.1, None, ""),
        ("activation", ["relu", "elu"], "relu", None, ""),
        ("penalty.l2", [0.0, 1e-4], 0.0, None, ""),  # nothing lies below
        ("data.split_seed", [0, 1, 2], 2, None, ""),
        ("optim.nesterov", [True, False], True, None, ""),
        ("optim.lr", [1e-4, 0.2, 0.97], 0.97, "tag(log, interval(1e-4, 1))", "upper end"),
        ("optim.lr", [2e-4, 0.2, 0.5], 0.5, "tag(log, interval(1e-4, 1))", ""),
        ("optim.lr", [1.2e-4, 0.2], 1.2e-4, "tag(log, interval(1e-4, 1))", "lower end"),
        ("optim.momentum", [0.9, 0.99], 0.99, "tag(log,one_minus,interval(0.5,0.999))", ""),
        ("optim.momentum", [0.9, 0.9988], 0.9988, "tag(log,one_minus,interval(0.5,0.999))",
         "upper end of interval(0.5,0.999): try higher"),
        ("model.dropout", [0.1, 0.4], 0.1, "interval(0, 0.5)", ""),
        ("model.dropout", [0.01, 0.4], 0.01, "interval(start=0, end=0.5)", ""),  # none below 0
        ("model.dropout", [0.01, 0.49], 0.49, "interval(0, 0.5)", "upper end"),
        ("model.dropout", [0.1, 0.4], 0.11, "interval(start=0.1, end=0.5)", "lower end"),
        ("optim.weight_decay", [0.001, 0.1], 0.001, "interval(0, 0.1)", ""),
        ("optim.momentum", [0.5, 0.99], 0.99, "interval(0, 1)", ""),  # below 1 always
    ],
)  # fmt: skip
def test_a_best_value_at_the_edge_is_told(key, tried, best, axis, said):
    found = [result(i, {key: value}, 1.0) for i, value in enumerate(tried)]
    lines = edges({key: best}, found, {key: axis})
    assert (said in lines[0]) if said else lines == []


def test_the_edges_of_every_setting_at_its_own_best_are_told():
    lines = told({"relu": [[3, 3], [1, 1], [2, 2]], "elu": [[3, 3], [2, 2], [1, 1]]})
    assert [line for line in lines if "tried" in line] == [
        "elu: best optim.lr 2 is the largest tried: try higher"
    ]


def searched(n=40):
    rng = np.random.default_rng(5)
    found = []
    for i in range(n):
        lr, decay = 10 ** rng.uniform(-4, 0), 10 ** rng.uniform(-6, -2)
        values = {"optim.lr": lr, "optim.weight_decay": decay}
        found.append(result(i, values, 1 + (math.log10(lr) + 1.5) ** 2))
    return found


def test_importances_find_what_mattered():
    pytest.importorskip("optuna", reason="optuna is not installed")
    (line,) = sentences.importance_lines(settings(searched()))
    shares = importance.importances([(s.values, s.rank[1]) for s in settings(searched())])
    assert shares["optim.lr"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)
    assert line.startswith("importance (PED-ANOVA, 40 settings): optim.lr 0.")
    assert importance.importances([(s.values, s.rank[1]) for s in settings(searched(7))]) == {}
    betas = [({"optim.lr": 0.1 + i % 3, "optim.betas": [0.8 + i / 100, 0.999]}, (i - 5) ** 2)
             for i in range(20)]  # fmt: skip
    shares = importance.importances(betas)
    assert shares.keys() == {"optim.lr", "optim.betas[0]"}
    assert shares["optim.betas[0]"] > 0.5


def test_without_optuna_one_quiet_line(monkeypatch):
    monkeypatch.setattr(sentences, "installed", lambda: False)
    assert sentences.importance_lines(settings(searched())) == [
        "importances need optuna: pip install 'trainlab[search]'"
    ]
    assert sentences.importance_lines(settings(searched(7))) == []
