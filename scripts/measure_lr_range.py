"""How often the band of task=lr_range holds the best lr of a full grid.

    python scripts/measure_lr_range.py [--seeds 20:25] [KEY=VALUE ...]

Six pairs, mlp and cnn by sgd, momentum and adam. For each of the seeds: three sweeps and `judge`;
against it GRID, trained for `epochs` (5) with the recipe's own schedule, best by the validation
loss at the end. Also trained: the lr that the test suggests. Prints the rows of docs/lr_range.md.
"""

import argparse
import dataclasses
import math
import statistics
from itertools import product

import numpy as np
import torch
from omegaconf import OmegaConf

from trainlab.cli import compose
from trainlab.config.build import Door
from trainlab.experiment import phases
from trainlab.experiment.lr_range import judge, seeded, sweep
from trainlab.training.randomness import seed_everything

GRID = np.logspace(-4, 1, 12)
SWEEPS = 3
ENDS, COUNTS = ("low", "high"), ("in", "near", "good")
HEAD = (
    "model, optimizer|best of the grid, median|band, median|widest, decades|band holds the best|"
    "lr within half a decade|lr 99 % as accurate as the best"
)


def bench_of(*overrides: str) -> phases.Bench:
    """The data and the recipe of a command line, without a run."""
    typed = {line.partition("=")[0]: line for line in ("device=cpu", "epochs=5", *overrides)}
    with compose.hydra_session() as hydra:
        cfg = compose.check(hydra, list(typed.values())).cfg
    return phases.prepare(
        OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]), Door()
    )


def trained(bench: phases.Bench, lr: float) -> tuple[float, float]:
    """Validation loss and accuracy after the whole training with this lr."""
    cfg = OmegaConf.merge(bench.cfg, {"optim": {"lr": float(lr)}})
    trainer = dataclasses.replace(bench, cfg=cfg).fresh()
    seed_everything(cfg.seed, "dropout")
    trainer.set_train_mode(trainer.model)
    while trainer.step_count < trainer.steps:
        trainer.step(*trainer.batches(trainer.step_count))
        trainer.record.clear()
    loss, accuracy = map(float, trainer.evaluate(trainer.validation).values())
    return (loss, accuracy) if math.isfinite(loss) else (math.inf, 0.0)


def measured(bench: phases.Bench) -> dict[str, float]:
    """One seed of one pair. A refusal holds nothing."""
    curves = [sweep(seeded(bench, bench.cfg.seed + i), 1e-6, 10, 200) for i in range(SWEEPS)]
    answer = judge(curves)
    results = [trained(bench, lr) for lr in GRID]
    place = int(np.argmin([loss for loss, _ in results]))
    best, accuracy = float(GRID[place]), results[place][1]
    if answer.refusal:
        print(f"  refused: {answer.refusal}")
        return {"best": best, "low": math.nan, "high": math.nan, "in": 0, "near": 0, "good": 0}
    share = trained(bench, answer.lr)[1] / accuracy
    return {
        "best": best,
        "low": answer.low,
        "high": answer.high,
        "in": answer.low <= best <= answer.high,
        "near": abs(math.log10(answer.lr / best)) <= 0.5,
        "good": share >= 0.99,
    }


def interval(hits: int, n: int) -> str:
    """Wilson's 95 % interval of a share, https://doi.org/10.1080/01621459.1927.10502953."""
    z, p = 1.96, hits / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return f"{hits} of {n} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", default="20:25", help="seed s sweeps 3s, 3s + 1, 3s + 2")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    seeds = range(*map(int, args.seeds.split(":")))
    torch.set_num_threads(1)
    print("|" + HEAD + "|\n|" + "---|" * len(HEAD.split("|")), flush=True)
    every = []
    for model, optim in product(("mlp", "cnn"), ("sgd", "momentum", "adam")):
        base = bench_of(f"model={model}", f"optim={optim}", *args.overrides)
        rows = [measured(seeded(base, SWEEPS * seed)) for seed in seeds]
        every += rows
        best, low, high = (statistics.median(row[k] for row in rows) for k in ("best", *ENDS))
        width = max(math.log10(row["high"] / row["low"]) for row in rows)
        counts = [f"{sum(row[k] for row in rows)} of {len(rows)}" for k in COUNTS]
        cells = [f"{model}, {optim}", f"{best:.2g}", f"{low:.2g} to {high:.2g}", f"{width:.2f}"]
        print("|" + "|".join(cells + counts) + "|", flush=True)
    shares = [interval(sum(row[k] for row in every), len(every)) for k in COUNTS]
    print("|" + "|".join(["all", "", "", "", *shares]) + "|")


if __name__ == "__main__":
    main()
