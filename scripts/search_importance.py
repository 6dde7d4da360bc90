"""Which hyperparameters matter, measured: docs/search.md has the result.

    python scripts/search_importance.py [--reps 20] [--runs 220] [--out FILE.json]

Random settings of a network on 800 training samples of digits, 4 epochs of Adam, each with a seed
of its own; one split. Every repetition has `runs` settings that no other has. The figure is the
test accuracy. Permutation importance: how much of R^2 a random forest that was fitted to three
quarters of the runs loses on the others when one column is shuffled. fANOVA (Hutter et al. 2014)
is Optuna's: the share of the forest's variance that an axis explains alone.
"""

import argparse
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from search_runs import Runs, space_of
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance

from trainlab.sweeps.search.samplers.random import random
from trainlab.sweeps.search.space import Choice, Space

HIDDEN = Choice("hidden", ("8", "16", "32", "64", "128"))
LAYERS = Choice("layers", ("1", "2", "3"))
BATCH = Choice("batch_size", ("16", "32", "64", "128"))
BETAS = "[tag(log,one_minus,interval(0.5,0.99)),tag(log,one_minus,interval(0.9,0.9999))]"
NAMES = {
    "optim.lr": "lr",
    "optim.betas[0]": "beta1",
    "optim.betas[1]": "beta2",
    "optim.eps": "eps",
    "schedule.rate": "lr decay",
    "batch_size": "batch",
}


def searched() -> Space:
    space = space_of(
        "optim.lr=tag(log,interval(1e-4,1))",
        f"optim.betas={BETAS}",
        "optim.eps=tag(log,interval(1e-10,1e-4))",
        "schedule.rate=tag(log,interval(0.1,100))",
    )
    more = (HIDDEN, LAYERS, BATCH)
    keys = {axis.name: (len(space.axes) + i,) for i, axis in enumerate(more)}
    return Space(space.axes + more, space.keys | keys)


def setting(values: dict[str, str], seed: int) -> dict[str, str]:
    """hidden=8 layers=2 -> model.widths=[8,8]"""
    own = {k: text for k, text in values.items() if k not in ("hidden", "layers")}
    widths = [int(values["hidden"])] * int(values["layers"])
    return own | {"model.widths": json.dumps(widths), "seed": str(seed)}


def trained(space: Space, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Places (count, axes) of `count` settings, and their test accuracies."""
    runs = Runs(0, "optim=adam", "schedule=inverse_time")
    asks = next(random(space, trials=count, seed=0))
    settings = [setting(ask.values, seed) for seed, ask in enumerate(asks)]
    for shape in {(own["model.widths"], own["batch_size"]) for own in settings}:
        runs.train(s for s in settings if (s["model.widths"], s["batch_size"]) == shape)
    places = [[axis.place(t) for axis, t in zip(space.axes, texts(a.values), strict=True)]
              for a in asks]  # fmt: skip
    return np.array(places), np.array([runs.accuracies[tuple(s.items())] for s in settings])


def texts(values: dict[str, str]) -> list[str]:
    """One text for each axis: that of betas has two."""
    return [part for text in values.values() for part in text.strip("[]").split(",")]


def permuted(x: np.ndarray, y: np.ndarray, rep: int) -> np.ndarray:
    cut = 3 * len(x) // 4
    forest = RandomForestRegressor(300, random_state=rep).fit(x[:cut], y[:cut])
    seen = permutation_importance(forest, x[cut:], y[cut:], n_repeats=20, random_state=rep)
    return seen.importances_mean


def fanova(x: np.ndarray, y: np.ndarray, rep: int) -> np.ndarray:
    import optuna
    from optuna.distributions import FloatDistribution

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    names = [str(i) for i in range(x.shape[1])]
    axes = {name: FloatDistribution(0, 1) for name in names}
    for places, value in zip(x.tolist(), y.tolist(), strict=True):
        params = dict(zip(names, places, strict=True))
        study.add_trial(optuna.create_trial(params=params, distributions=axes, value=value))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=rep)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return np.array([found[name] for name in names])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--reps", type=int, default=20)
    parser.add_argument("--runs", type=int, default=220)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    space = searched()
    x, y = trained(space, args.reps * args.runs)
    names = [NAMES.get(axis.name, axis.name) for axis in space.axes]
    told = {"accuracies": y.tolist(), "axes": names}
    for name, measure in {"permutation": permuted, "fANOVA": fanova}.items():
        if name == "fANOVA" and not find_spec("optuna"):
            continue
        parts = zip(np.split(x, args.reps), np.split(y, args.reps), strict=True)
        seen = np.array([measure(*part, rep) for rep, part in enumerate(parts)])
        ranks = (-seen).argsort(1).argsort(1) + 1
        print(f"\n|{name}|mean|std|ranks|\n|-|-|-|-|")
        for i in (-seen.mean(0)).argsort():
            row = f"|{names[i]}|{seen[:, i].mean():.3f}|{seen[:, i].std(ddof=1):.3f}|"
            print(f"{row}{ranks[:, i].min()} to {ranks[:, i].max()}|", flush=True)
        told[name] = seen.tolist()
    if args.out:
        args.out.write_text(json.dumps(told))


if __name__ == "__main__":
    main()
