"""What a sweep takes as one command, and what the size of its stacks does.

    python scripts/benchmark_sweep.py [commands] [many] [planner] [--jobs N] [--steps N ...]
                                      [--pairs N]

One thread each; run it on an idle machine.

    commands  whole commands of 64 digits jobs (4 lr x 4 weight decays x 4 seeds; no preflight, no
              probes): as stacks; one after the other under Hydra's basic launcher; two at a time
              with joblib (hydra-joblib-launcher where it is installed, else joblib over
              trainlab.run); and as separate commands, of which SAMPLE are timed and the rest
              counted as like them. The fixed cost is what each way takes for one step a job.
    many      time a run and step of 256 runs at a time, against 64
    planner   what the planner chooses for 64 runs, against the best of 1, 4, 16 and 64 at a time;
              the truth is the faster of two measurements of each, after the plan
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import distributions
from pathlib import Path

from benchmark import STACKED, bench_of, pairs, report

SWEPT = {
    "optim.lr": ("0.1", "0.03", "0.01", "0.003"),
    "optim.weight_decay": ("0", "1e-4", "1e-3", "1e-2"),
    "seed": ("0", "1", "2", "3"),
}
PLAIN = ["preflight=none", "probe=none", "quiet=true", "device=cpu", "epochs=1000"]
SAMPLE = 4  # separate commands that are timed
JOBLIB = """
import sys
import joblib
import trainlab
jobs = [line.split() for line in sys.stdin]
joblib.Parallel(n_jobs=2)(joblib.delayed(trainlab.run)(*job) for job in jobs)
"""


def timed(arguments: list[str], folder: Path, given: str = "") -> float:
    """Seconds of one command; what it printed when it fails."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, input=given, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)[:200]}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.perf_counter() - begun


def chosen(jobs: int) -> dict[str, tuple[str, ...]]:
    """As many jobs of SWEPT as are asked for, fewer seeds first, then fewer decays."""
    found = dict(SWEPT)
    for key in reversed(SWEPT):
        others = 1
        for name, values in found.items():
            others *= 1 if name == key else len(values)
        found[key] = found[key][: max(1, jobs // others)]
    return found


def multirun(launcher: list[str], jobs: int, steps: int) -> float:
    words = [f"{key}={','.join(values)}" for key, values in chosen(jobs).items()]
    with tempfile.TemporaryDirectory() as folder:
        where = [f"max_steps={steps}", "hydra.sweep.dir=sweep"]
        return timed(["-m", "trainlab", "-m", *PLAIN, *words, *where, *launcher], Path(folder))


def lines(jobs: int, steps: int) -> list[list[str]]:
    """What each job is started with alone."""
    swept = chosen(jobs)
    return [
        [*PLAIN, f"max_steps={steps}", f"hydra.run.dir={number}"]
        + [f"{key}={value}" for key, value in zip(swept, values, strict=True)]
        for number, values in enumerate(itertools.product(*swept.values()))
    ]


def joblib(jobs: int, steps: int) -> float:
    if "hydra-joblib-launcher" in {found.name for found in distributions()}:
        return multirun(["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], jobs, steps)
    given = "\n".join(" ".join(line) for line in lines(jobs, steps))
    with tempfile.TemporaryDirectory() as folder:
        return timed(["-c", JOBLIB], Path(folder), given)


def separate(jobs: int, steps: int) -> float:
    """Of SAMPLE commands spread over the jobs, times what they stand for."""
    found = lines(jobs, steps)
    some = found[:: max(1, len(found) // SAMPLE)][:SAMPLE]
    with tempfile.TemporaryDirectory() as folder:
        took = sum(timed(["-m", "trainlab", *line], Path(folder)) for line in some)
    return took / len(some) * len(found)


WAYS: dict[str, Callable[[int, int], float]] = {
    "stack launcher": partial(multirun, ["hydra/launcher=stack"]),
    "basic launcher": partial(multirun, []),
    "joblib, 2 workers": joblib,
    f"separate commands ({SAMPLE} timed)": separate,
}


def commands(asked: argparse.Namespace) -> None:
    """A row a way: seconds at one step (the fixed cost) and at each number of steps, medians of
    rounds in which all ways take turns."""
    found: dict[tuple[str, int], list[float]] = {}
    sizes = [1, *asked.steps]
    for _ in range(asked.pairs):
        for steps, (name, way) in itertools.product(sizes, WAYS.items()):
            found.setdefault((name, steps), []).append(way(asked.jobs, steps))
            print(f"  {name}, {steps} steps: {found[name, steps][-1]:.1f} s", flush=True)
    middle = {key: statistics.median(seconds) for key, seconds in found.items()}
    count = len(lines(asked.jobs, 1))
    print(f"{count} jobs, n {asked.pairs}: s at 1 step (fixed) and at {asked.steps} steps")
    base = next(iter(WAYS))
    for name in WAYS:
        shown = "".join(
            f"{middle[name, steps]:9.1f} ({middle[name, steps] / middle[base, steps]:5.2f} x stack)"
            for steps in sizes
        )
        print(f"{name:32s}{shown}")


def many(asked: argparse.Namespace) -> None:
    from trainlab.sweeps.execute.planner import cost

    for name in ("digits MLP 128-64", "digits MLP 32"):
        bench = bench_of([*STACKED[name][0], "probe=none", "preflight=none"])
        few, lot = partial(cost, bench, 64), partial(cost, bench, 256)
        few(), lot()
        report(f"many: A/A, R=64, {name}", pairs(few, few, asked.pairs))
        report(f"many: a run and step, R=256 / R=64, {name}", pairs(few, lot, asked.pairs))


def planner(asked: argparse.Namespace) -> None:
    from trainlab.sweeps.execute.planner import cost, planned

    for name, (words, _) in STACKED.items():
        if root := os.environ.get("TRAINLAB_DATA") if "MNIST" in name else None:
            words = [*words, f"data.root={root}"]
        bench, regrets = bench_of([*words, "probe=none", "preflight=none"]), []
        for _ in range(asked.pairs):
            with tempfile.TemporaryDirectory() as folder:
                size = planned(bench, 64, None, Path(folder) / "plan.json").size
            costs = {n: min(cost(bench, n), cost(bench, n)) for n in (1, 4, 16, 64)}
            regrets.append(costs[size] / min(costs.values()) - 1)
            shown = ", ".join(f"{n}: {1e3 * c:.3f}" for n, c in costs.items())
            print(f"  {name}: {size} at a time; ms a run and step {shown}", flush=True)
        print(f"planner: regret, {name}: {statistics.median(regrets):.0%}, "
              f"worst {max(regrets):.0%}, n {asked.pairs}", flush=True)  # fmt: skip


def main() -> None:
    import torch

    subjects = {"commands": commands, "many": many, "planner": planner}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", choices=[*subjects, []], default=list(subjects))
    parser.add_argument("--jobs", type=int, default=64)
    parser.add_argument("--steps", type=int, nargs="+", default=[450, 4500])
    parser.add_argument("--pairs", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    version = f"torch {torch.__version__}, python {sys.version.split()[0]}"
    print(f"{version}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for name in asked.what:
        subjects[name](asked)


if __name__ == "__main__":
    main()
