"""What the lectures say about searching, measured: docs/search.md has the results.

    python scripts/search_claims.py [random] [log] [fine] [halving] [one] [--reps 20]
                                    [--out FILE.json]

Digits, 800 training samples, one hidden layer of 64 units, 4 epochs of batch 32 (100 steps), a
constant learning rate, the weights of the last step. Every repetition has its own split, weights,
order of the samples and draws; the two sides of a comparison share the first three. A search picks
the run of the lowest validation loss; the figure is that run's accuracy on the test split, 0.1
where all runs diverged. All runs are trained, none is drawn again from a pool.
"""

import argparse
import json
from collections.abc import Callable, Generator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from search_runs import Runs, space_of

from trainlab.sweeps.search.samplers.coarse_to_fine import coarse_to_fine
from trainlab.sweeps.search.samplers.grid import grid
from trainlab.sweeps.search.samplers.halving import halving, shares
from trainlab.sweeps.search.samplers.optuna import optuna
from trainlab.sweeps.search.samplers.random import random
from trainlab.sweeps.search.samplers.sobol import sobol
from trainlab.sweeps.search.space import Ask, Space

LR, WD = "optim.lr=tag(log,interval(1e-4,1))", "optim.weight_decay=tag(log,interval(1e-6,1e-2))"
THIRD = {
    "momentum": "optim.momentum=tag(log,one_minus,interval(0.5,0.99))",
    "adam": "optim.betas=[tag(log,one_minus,interval(0.5,0.99)),0.999]",
}
OPTIMS = tuple(THIRD)
NAMES = {"momentum": "SGD with momentum", "adam": "Adam", "sgd": "Plain SGD"}


def offset(space: Space, points: int, rep: int) -> Generator:
    """A grid whose lines lie anywhere: without it all repetitions would have the same one."""
    shift = np.random.default_rng(rep).random(len(space.axes))
    places = np.stack(np.meshgrid(*[np.arange(points)] * len(shift)), -1).reshape(-1, len(shift))
    yield [Ask(space.at(point)) for point in (places + shift) / points]


def versus(name: str, sides: dict[str, Callable], reps: int, lines: tuple, marks=()) -> dict:
    """What every side's search picks in each repetition: side(rep) is a sampler."""
    found: dict[str, list] = {side: [] for side in sides}
    for rep in range(reps):
        runs = Runs.of(rep, lines, tuple(marks))
        for side, sampler in sides.items():
            found[side].append(runs.search(sampler(rep)))
    return told(name, found)


def told(name: str, found: dict[str, list[tuple[float, float, float, float]]]) -> dict:
    """Print each side against the first: in how many repetitions it is better and worse, mean
    difference and its interval; the median lr picked."""
    columns = {side: np.array(own).T for side, own in found.items()}
    first, (base, loss, *_) = next(iter(columns.items()))
    print(
        f"\n{name}\n\n|side|cost|accuracy|worst|better : worse|difference|loss|better : worse|lr|"
    )
    print("|-|-|-|-|-|-|-|-|-|")
    for side, (accuracies, losses, lrs, costs) in columns.items():
        row = [side, f"{costs.mean():.1f}", f"{accuracies.mean():.3f}", f"{accuracies.min():.3f}"]
        row += ["", ""] if side == first else [score(accuracies - base), gap(accuracies - base)]
        row += [f"{losses.mean():.3f}", "" if side == first else score(loss - losses)]
        row += [f"{np.nanmedian(lrs):.2g}"]
        print(f"|{'|'.join(row)}|", flush=True)
    return {"claim": name, "accuracy, loss, lr, cost": found}


def score(better: np.ndarray) -> str:
    return f"{(better > 0).sum()} : {(better < 0).sum()}"


def gap(better: np.ndarray) -> str:
    """The mean, and the 95 % interval of 10,000 bootstrap resamples of the repetitions."""
    rng = np.random.default_rng(0)
    means = better[rng.integers(len(better), size=(10_000, len(better)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{better.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def random_or_grid(reps: int) -> list[dict]:
    found = []
    for optim in OPTIMS:
        for lines, axes in (((LR, WD), 2), ((LR,), 1)):
            space = space_of(*lines)
            for points in (3, 4):
                n = points**2
                each = points if axes == 2 else n
                sides = {
                    f"random, {n} trials": lambda r, s=space, n=n: random(s, trials=n, seed=r),
                    f"grid {'x'.join([str(each)] * axes)}, ends included":
                        lambda r, s=space, each=each: grid(s, points=each),
                    "grid, offset at random": lambda r, s=space, each=each: offset(s, each, r),
                    "Sobol": lambda r, s=space, n=n: sobol(s, trials=n, seed=r),
                }  # fmt: skip
                name = f"{NAMES[optim]}, lr{' and weight decay' * (axes == 2)}, {n} trials"
                found.append(versus(name, sides, reps, (f"optim={optim}",)))
    return found


def log_or_linear(reps: int) -> list[dict]:
    log, linear = space_of(LR), space_of("optim.lr=interval(1e-4,1)")
    return [
        versus(
            f"{NAMES[optim]}, lr from 1e-4 to 1, {n} trials",
            {
                "log": lambda r, n=n: random(log, trials=n, seed=r),
                "linear": lambda r, n=n: random(linear, trials=n, seed=r),
            },
            reps,
            (f"optim={optim}",),
        )
        for optim in (*OPTIMS, "sgd")
        for n in (3, 5, 10)
    ]


def coarse_or_random(reps: int) -> list[dict]:
    found = []
    for optim in OPTIMS:
        space = space_of(LR, WD, THIRD[optim])
        options = {
            "8 + 8 round the best": {"trials": 16, "top": 1},
            "8 + 8 round the best 3": {"trials": 16, "top": 3},
            "8 + 8 round the best 3, windows of a half": {"trials": 16, "top": 3, "shrink": 0.5},
            "6 + 5 + 5 round the best 3": {"trials": 16, "top": 3, "stages": 3},
            "12 of 1 epoch + 13 round the best 3": {"trials": 25, "top": 3, "until": 0.25},
        }
        sides = {"random, 16 trials": lambda r, s=space: random(s, trials=16, seed=r)}
        for name, given in options.items():
            sides[name] = lambda r, s=space, g=given: coarse_to_fine(s, seed=r, **g)
        for word in ("tpe", "gp") if find_spec("optuna") else ():
            sides[f"Optuna's {word}, 4 at once"] = lambda r, s=space, w=word: optuna(
                s, seed=r, batch=4, sampler=w
            )
        name = f"{NAMES[optim]}: lr, 1 - momentum, weight decay"
        found.append(versus(name, sides, reps, (f"optim={optim}",), marks=[25]))
    return found


def halving_or_full(reps: int) -> list[dict]:
    found = []
    for optim in OPTIMS:
        space = space_of(LR, WD, THIRD[optim])
        for epochs in (4, 16):
            marks, sides = [], {"16 whole runs": lambda r, s=space: random(s, trials=16, seed=r)}
            for eta, n in ((2, 87), (3, 62), (4, 106)):  # all cost 15.3 to 16 whole runs
                marks += [round(share * 25 * epochs) for share in shares(n, eta, 0.05)]
                sides[f"halving, eta {eta}, {n} begun"] = lambda r, s=space, e=eta, n=n: halving(
                    s, trials=n, seed=r, eta=e
                )
            sides["106 whole runs"] = lambda r, s=space: random(s, trials=106, seed=r)
            name = f"{NAMES[optim]}: lr, 1 - momentum, weight decay; {epochs} epochs"
            lines = (f"optim={optim}", f"epochs={epochs}")
            found.append(versus(name, sides, reps, lines, marks=marks))
    return found


def one_or_many(reps: int) -> list[dict]:
    """One run of 32 epochs against the best of eight of 4; its lr is that of the first of them."""
    found = []
    space = space_of(LR)
    for optim in OPTIMS:
        picked: dict[str, list] = {}
        for rep in range(reps):
            short = Runs.of(rep, (f"optim={optim}",))
            long = Runs.of(rep, (f"optim={optim}", "epochs=32"))
            usual = iter([[Ask({"optim.lr": str(long.bench.cfg.optim.lr)})]])
            for side, runs, sampler in (
                ("many: best of 8 lr, 4 epochs", short, random(space, trials=8, seed=rep)),
                ("one: a random lr, 32 epochs", long, random(space, trials=1, seed=rep)),
                ("the lr of the word's file, 32 epochs", long, (ask for ask in usual)),
            ):
                *seen, _ = runs.search(sampler)
                picked.setdefault(side, []).append((*seen, 8.0))
        name = f"{NAMES[optim]}, lr from 1e-4 to 1; 32 epochs in all"
        found.append(told(name, picked))
    return found


CLAIMS = {
    "random": random_or_grid,
    "log": log_or_linear,
    "fine": coarse_or_random,
    "halving": halving_or_full,
    "one": one_or_many,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("claims", nargs="*", metavar="CLAIM", help=", ".join(CLAIMS))
    parser.add_argument("--reps", type=int, default=20)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: CLAIMS[name](args.reps) for name in args.claims or CLAIMS}
    if args.out:
        args.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
