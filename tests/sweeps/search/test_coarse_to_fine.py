"""Coarse to fine against a driver that scores by a formula."""

import pytest
from spaces import LR, MIXED, asks, driven, space_of

from trainlab.errors import ConfigError
from trainlab.sweeps.search.samplers.coarse_to_fine import coarse_to_fine


def test_coarse_to_fine_draws_round_each_of_the_top():
    space = space_of(LR)
    lr, first = space.axes[0], {}
    rounds = driven(coarse_to_fine(space, trials=40, seed=1, top=3, shrink=0.1))
    (coarse, scores), (fine, _) = rounds
    assert len(coarse) == len(fine) == 20
    ranked = sorted(
        (s, lr.place(a.values["optim.lr"])) for a, s in zip(coarse, scores, strict=True) if s
    )
    tops = [place for _, place in ranked[:3]]
    for i, ask in enumerate(fine):
        place = lr.place(ask.values["optim.lr"])
        assert abs(place - tops[i % 3]) <= 0.1 / 2 + 1e-3
        first.setdefault(i % 3, place)
    assert len(set(first.values())) == 3


def test_coarse_to_fine_stays_inside_when_the_best_is_at_the_edge():
    space = space_of(LR)
    search = coarse_to_fine(space, trials=90, stages=3, top=1)
    rounds = driven(search, lambda v, _: -float(v["optim.lr"]))
    places = [[space.axes[0].place(a.values["optim.lr"]) for a in b] for b, _ in rounds]
    assert [len(p) for p in places] == [30, 30, 30]
    assert max(places[1]) > 0.97
    assert min(places[2]) >= 1 - 1 / 16 - 1e-4
    assert max(max(p) for p in places) <= 1


def test_a_window_at_the_edge_keeps_its_length():
    space = space_of(LR)
    found = driven(coarse_to_fine(space, trials=400, top=1), lambda v, _: -float(v["optim.lr"]))
    coarse, fine = ([space.axes[0].place(a.values["optim.lr"]) for a in b] for b, _ in found)
    assert max(coarse) > 0.95  # so a window of a quarter centred there would leave the range
    assert 0.75 <= min(fine) < 0.77


def test_coarse_to_fine_keeps_to_the_words_of_the_best():
    found = driven(coarse_to_fine(MIXED, trials=60, top=2))
    (coarse, scores), (fine, _) = found
    best = sorted((s, i) for i, s in enumerate(scores) if s is not None)[:2]
    allowed = {coarse[i].values["activation"] for _, i in best}
    assert {ask.values["activation"] for ask in fine} == allowed


def test_coarse_to_fine_can_look_only_briefly_at_first():
    rounds = driven(coarse_to_fine(MIXED, trials=30, stages=3, until=0.25))
    assert [batch[0].until for batch, _ in rounds] == [0.25, 0.25, 1.0]
    assert [len(batch) for batch, _ in rounds] == [10, 10, 10]


@pytest.mark.parametrize(("trials", "stages"), [(4, 2), (9, 9), (16, 3)])
def test_coarse_to_fine_tries_all_of_a_few_words(trials, stages):
    space = space_of("activation=relu,elu,tanh,gelu")
    search = coarse_to_fine(space, trials=trials, stages=stages, top=1)
    found = asks(search, lambda v, _: float(v["activation"] != "relu"))
    assert len({ask.values["activation"] for ask in found}) == len(found) == 4


@pytest.mark.parametrize("values", ["0.1,0.1,0.01,0.01", "0.1,0.01,0.2,0.02"])
def test_coarse_to_fine_ends_the_best_where_too_few_are_left(values):
    search = coarse_to_fine(space_of(f"optim.lr={values}"), trials=4, until=0.5, top=1)
    (first, scores), (ends, _) = driven(search, lambda v, _: float(v["optim.lr"]))
    assert {ask.until for ask in first} == {0.5} and len(first) == 2
    assert {ask.until for ask in ends} == {1}
    best = first[scores.index(min(scores))].values
    assert ends[-1].values == best
    found = {ask.values["optim.lr"] for ask in first + ends}
    assert found == set(values.split(",")) and len(ends) == len(found) - 1


def test_more_stages_than_trials_are_refused():
    with pytest.raises(ConfigError, match=r"sweep\.stages = 9: at most sweep\.trials"):
        next(coarse_to_fine(MIXED, trials=4, stages=9))
