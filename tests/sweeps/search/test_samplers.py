"""Samplers against a driver that scores by a formula."""

import functools
import importlib
import inspect
import itertools
import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from spaces import LR, MIXED, WD, asks, bowl, driven, space_of

from trainlab.config import keys, words
from trainlab.errors import ConfigError
from trainlab.sweeps.search.samplers.coarse_to_fine import coarse_to_fine
from trainlab.sweeps.search.samplers.grid import grid
from trainlab.sweeps.search.samplers.halving import halving, shares
from trainlab.sweeps.search.samplers.random import random
from trainlab.sweeps.search.samplers.sobol import sobol

SIMPLE = random, sobol
ADAPTIVE = coarse_to_fine, halving


def optuna():
    pytest.importorskip("optuna")
    return importlib.import_module("trainlab.sweeps.search.samplers.optuna").optuna


def test_grid_is_the_product_in_hydras_order():
    found = [ask.values for ask in asks(grid(space_of("a=1,2", "b=x,y,z")))]
    assert found == [{"a": a, "b": b} for a, b in itertools.product("12", "xyz")]


def test_grid_lays_values_over_an_interval():
    def of(line, points):
        return [ask.values["optim.lr"] for ask in asks(grid(space_of(line), points=points))]

    assert of(LR, 5) == ["0.0001", "0.001", "0.01", "0.1", "1.0"]
    assert of("optim.lr=interval(0,1)", 5) == ["0.0", "0.25", "0.5", "0.75", "1.0"]
    assert of("optim.lr=int(interval(1,3))", 9) == ["1", "2", "3"]
    assert of(LR, 1) == ["0.01"]
    with pytest.raises(ConfigError, match=r"sweep\.trials=16"):
        next(grid(space_of(LR)))


@pytest.mark.parametrize("sampler", SIMPLE)
@given(seed=st.integers(0, 10**6), few=st.integers(1, 9), more=st.integers(0, 20))
@settings(max_examples=20, deadline=None)
def test_the_first_trials_are_the_same_however_many_follow(sampler, seed, few, more):
    long = asks(sampler(MIXED, trials=few + more, seed=seed))
    assert asks(sampler(MIXED, trials=few, seed=seed)) == long[:few]
    assert len({tuple(ask.values.values()) for ask in long}) == few + more


@pytest.mark.parametrize("sampler", [*SIMPLE, *ADAPTIVE])
def test_another_seed_draws_others(sampler):
    assert not set(map(str, asks(sampler(MIXED, seed=1)))) & set(map(str, asks(sampler(MIXED))))


@pytest.mark.parametrize("sampler", SIMPLE)
def test_draws_are_uniform_in_the_logarithm(sampler):
    found = asks(sampler(space_of(LR, WD), trials=500, seed=3))
    for key, low in (("optim.lr", -4), ("optim.weight_decay", -6)):
        logs = [math.log10(float(ask.values[key])) for ask in found]
        assert stats.kstest(logs, stats.uniform(low, 4).cdf).pvalue > 0.01
    linear = asks(sampler(space_of("a=interval(1e-4,1)"), trials=500, seed=3))
    logs = [math.log10(float(ask.values["a"])) for ask in linear]
    assert stats.kstest(logs, stats.uniform(-4, 4).cdf).pvalue < 1e-9


def test_sobol_has_one_draw_in_each_part():
    places = [MIXED.axes[0].place(a.values["optim.lr"]) for a in asks(sobol(MIXED, trials=16))]
    assert sorted(int(16 * u) for u in places) == list(range(16))
    other = [MIXED.axes[0].place(a.values["optim.lr"]) for a in asks(random(MIXED, trials=16))]
    assert sorted(int(16 * u) for u in other) != list(range(16))


@pytest.mark.parametrize("sampler", [*SIMPLE, *ADAPTIVE])
def test_a_small_space_is_asked_for_once(sampler):
    space = space_of("optim.lr=0.1,0.01", "activation=relu,elu")
    found = [tuple(a.values.values()) for a in asks(sampler(space, trials=50)) if a.until < 2]
    assert len(set(found)) == 4
    assert sampler is halving or len(found) == 4
    assert len(asks(sampler(space_of("a=1"), trials=2))) == 1


@pytest.mark.parametrize("sampler", ADAPTIVE)
@given(seed=st.integers(0, 10**6), trials=st.integers(2, 40), cut=st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_a_search_is_replayed_by_its_scores(sampler, seed, trials, cut):
    score = functools.partial(bowl, fails=sampler is coarse_to_fine)
    whole = driven(sampler(MIXED, trials=trials, seed=seed), score)
    known = [scores for _, scores in whole[:cut]]
    assert driven(sampler(MIXED, trials=trials, seed=seed), score, known) == whole


@pytest.mark.parametrize("score", [lambda *_: None, lambda *_: math.nan])
def test_when_all_fail(score):
    """Coarse to fine draws on as at first; halving has nobody left and says what may be wrong."""
    rounds = driven(coarse_to_fine(MIXED, trials=9), score)
    assert [len(batch) for batch, _ in rounds] == [4, 5]
    with pytest.raises(ConfigError, match=r"evaluate\.every=10"):
        driven(halving(MIXED, trials=9), score)
    assert len(driven(halving(MIXED, trials=2), score)) == 1  # whole runs, whose failure is told


@pytest.mark.parametrize(
    ("trials", "eta", "counts"),
    [(27, 3, [27, 9, 3]), (16, 3, [16, 5, 1]), (16, 2, [16, 8, 4, 2, 1]), (1, 3, [1]), (2, 3, [2]),
     (100, 4, [100, 25, 6])],
)  # fmt: skip
def test_halving_lets_the_best_go_on(trials, eta, counts):
    space = space_of(LR)
    rounds = driven(halving(space, trials=trials, eta=eta), lambda v, _: float(v["optim.lr"]))
    assert [len(batch) for batch, _ in rounds] == counts
    assert [batch[0].until for batch, _ in rounds] == shares(trials, eta, 0.05)
    assert rounds[-1][0][0].until == 1
    for (before, scores), (after, _) in itertools.pairwise(rounds):
        best = sorted(scores)[: len(after)]
        assert [float(ask.values["optim.lr"]) for ask in after] == [s for s in scores if s in best]
        assert all(ask.values in [b.values for b in before] for ask in after)


def test_halving_leaves_out_who_failed():
    def score(values, until):
        return None if float(values["optim.lr"]) < 0.1 else float(values["optim.lr"])

    rounds = driven(halving(space_of(LR), trials=27), score)
    assert all(float(a.values["optim.lr"]) >= 0.1 for batch, _ in rounds[1:] for a in batch)


def test_shares_of_halving():
    assert shares(16, 3, 0.05) == [1 / 9, 1 / 3, 1]
    assert shares(1000, 10, 0.001) == [0.001, 0.01, 0.1, 1]
    assert shares(16, 3, 0.5) == [1]


REFUSED = [(halving, "least", value) for value in (2, 0, "abc", math.nan)]
REFUSED += [(coarse_to_fine, "shrink", 3), (coarse_to_fine, "until", 0)]


@pytest.mark.parametrize(("sampler", "name", "value"), REFUSED)
def test_settings_of_their_own_are_checked(sampler, name, value):
    told = rf"hydra\.sweeper\.sampler\.{name} = {value}: must be a finite number > 0 and <= 1; use"
    with pytest.raises(ConfigError, match=told):
        next(sampler(MIXED, **{name: value}))


@pytest.mark.parametrize("word", ["tpe", "qmc", "nsgaii"])
def test_optuna_asks_in_batches_and_repeats_itself(word, tmp_path):
    sampler = optuna()
    rounds = driven(sampler(MIXED, trials=20, batch=8, sampler=word, seed=2))
    assert [len(batch) for batch, _ in rounds] == [8, 8, 4]
    assert driven(sampler(MIXED, trials=20, batch=8, sampler=word, seed=2)) == rounds
    other = driven(sampler(MIXED, trials=20, batch=8, sampler=word, seed=3))
    assert word == "qmc" or other != rounds


@pytest.mark.parametrize("torn", [b"", b'{"op_code": 4, "wor'])
def test_optuna_goes_on_from_its_journal(tmp_path, torn):
    sampler = optuna()
    whole = driven(sampler(MIXED, trials=24, batch=8))
    cut = sampler(MIXED, trials=24, batch=8, directory=tmp_path)
    next(cut)
    cut.send(whole[0][1])  # told, and asked again: then it was killed
    journal = tmp_path / "optuna.journal"
    journal.write_bytes(journal.read_bytes() + torn)
    known = [whole[0][1]]
    again = driven(sampler(MIXED, trials=24, batch=8, directory=tmp_path), known=known)
    assert again == whole
    kept = journal.read_bytes()
    assert driven(sampler(MIXED, trials=24, batch=8, directory=tmp_path)) == whole
    assert journal.read_bytes().count(b"suggest") == kept.count(b"suggest")


def test_optuna_takes_its_first_batch_from_the_journal(tmp_path):
    """Not from the seed: what an older Optuna asked for stands."""
    sampler = optuna()
    first = next(sampler(MIXED, batch=4, seed=7, directory=tmp_path))
    assert next(sampler(MIXED, batch=4, seed=8, directory=tmp_path)) == first
    assert next(sampler(MIXED, batch=4, seed=8)) != first


def test_optuna_learns():
    sampler = optuna()
    rounds = driven(sampler(MIXED, trials=64, batch=8))
    early, late = ([s for _, s in r] for r in (rounds[:2], rounds[-2:]))

    def middle(scores):
        return sorted(9 if s is None else s for row in scores for s in row)[8]

    assert middle(late) < middle(early) / 2


def test_optuna_never_asks_for_a_setting_twice():
    sampler = optuna()
    space = space_of("optim.lr=0.1,0.01,0.001", "activation=relu,elu")
    found = asks(sampler(space, trials=50, batch=4))
    assert len({tuple(a.values.values()) for a in found}) == len(found) <= 6


def test_optuna_names_its_samplers():
    sampler = optuna()
    with pytest.raises(ConfigError, match="not one of .*tpe"):
        next(sampler(MIXED, sampler="tpee"))
    with pytest.raises(ConfigError, match="use tpe"):
        next(sampler(MIXED, sampler="bruteforce"))


def test_the_listed_samplers_of_optuna_are_those_that_need_only_a_seed():
    """Another Optuna may have others: then the list is to be changed."""
    optuna()
    from optuna import samplers

    from trainlab.sweeps.search.samplers.optuna import SEEDED, maker

    found = set()
    for name, kind in inspect.getmembers(samplers, inspect.isclass):
        own = inspect.signature(kind).parameters
        if "seed" in own and all(key.default is not key.empty for key in own.values()):
            found.add(name)
    assert {f"{name}Sampler" for name in SEEDED} == found
    assert {maker(name.lower()).__name__ for name in SEEDED} == found


@pytest.mark.parametrize("path", sorted((words.conf() / "hydra/sweeper").glob("*.yaml")))
def test_a_word_takes_every_key_of_sweep_that_its_sampler_has(path):
    told = yaml.safe_load(path.read_text())
    module, _, name = told["sampler"]["_target_"].rpartition(".")
    sampler = getattr(importlib.import_module(module), name)
    own = {key.removeprefix("sweep.") for key in keys.OWN_KEYS if key.startswith("sweep.")}
    takes = [k for k in inspect.signature(sampler).parameters if k in own | {"directory"}]
    assert told["takes"] == takes


def test_optuna_missing_is_one_line(monkeypatch):
    import sys

    from trainlab.sweeps.search.samplers import optuna as module

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match="pip install 'optuna>=5,<6'") as caught:
        next(module.optuna(MIXED))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", sorted((words.conf() / "hydra/sweeper").glob("*.yaml")))
def test_every_word_names_a_sampler(path):
    assert path.read_text().startswith("# ")
    node = yaml.safe_load(path.read_text())["sampler"]
    module, _, name = node.pop("_target_").rpartition(".")
    function = getattr(importlib.import_module(module), name)
    assert path.stem == name
    assert node.pop("_partial_") is True
    if name != "optuna":
        given = node | ({"points": 2} if name == "grid" else {})
        assert next(function(MIXED, **given))
    assert "Named by conf/hydra/sweeper/." in importlib.import_module(module).__doc__
