"""The script that measures the claims trains what it says."""

import importlib.util
import sys
from pathlib import Path

import pytest

from trainlab.sweeps.search.samplers.halving import halving
from trainlab.sweeps.search.space import Ask
from trainlab.training.trainer import Every, Watch

path = Path(__file__).resolve().parents[2] / "scripts" / "search_claims.py"
sys.path.append(str(path.parent))  # it imports search_runs beside it
spec = importlib.util.spec_from_file_location("search_claims", path)
claims = importlib.util.module_from_spec(spec)
spec.loader.exec_module(claims)


@pytest.fixture(scope="module")
def runs():
    return claims.Runs(3, "optim=momentum", "epochs=1", marks=[8])


def test_a_search_picks_the_lowest_loss_and_tells_its_test_accuracy(runs):
    asked = [Ask({"optim.lr": text}) for text in ("0.001", "0.05", "1e30")]
    accuracy, loss, lr, cost = runs.search(one(asked))
    assert (lr, cost) == (0.05, 3)
    runs.bench.cfg.optim.lr = 0.05
    alone = runs.bench.fresh()
    alone.fit(Every(), Watch())
    bench = runs.bench
    assert accuracy == float(alone.evaluate(bench.in_order(bench.splits.test))["accuracy"])
    val = float(alone.evaluate(bench.in_order(bench.splits.val))["loss"])
    assert loss == pytest.approx(val, abs=1e-5)
    assert runs.losses[(("optim.lr", "1e30"),)][runs.steps] is None  # diverged


def one(batch):
    yield batch


def test_a_paused_run_costs_its_share(runs):
    space = claims.space_of(claims.LR)
    *_, cost = runs.search(halving(space, trials=6, eta=3, least=0.33))
    assert cost == pytest.approx(2 + 4 / 3)


def test_nothing_but_divergence_is_chance(runs):
    accuracy, *_ = runs.search(one([Ask({"optim.lr": "1e30"})]))
    assert accuracy == 0.1


def test_a_grid_with_an_offset_has_one_point_a_cell():
    (asks,) = claims.offset(claims.space_of(claims.LR, claims.WD), 3, 0)
    lrs, decays = ({a.values[key] for a in asks} for key in ("optim.lr", "optim.weight_decay"))
    assert len(asks) == 9
    assert len(lrs) == len(decays) == 3
