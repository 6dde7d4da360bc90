"""Speed as ratios, in pairs, with an A/A control.

    python scripts/benchmark.py [start] [step] [probe] [watch] [stack] [--pairs N]
    python scripts/benchmark.py versions --against DIR [--pairs N]

A and B alternate in one process (or as alternating processes), one thread; the figure is the
median of the ratios of the pairs, with its quartiles. The A/A control runs the same thing twice:
what it is off 1 is the noise.

    start   start to the first step (and a whole run of one step), against a script that imports
            torch, builds the same optimizer and takes a step
    step    a step with probes off, against a hand-written loop: same batches, figures,
            optimizer and schedule, no clip
    probe   a probe step in plain steps, and what the default cadence therefore costs
    watch   a whole run with the default probes and findings, against one without, in time and in
            CPU time; MNIST must be in the user's cache or in $TRAINLAB_DATA, and has fewer epochs
            here than its recipes, which are therefore watched more cheaply
    stack   R runs a step, one after the other against together; and the planner's choice against
            the best of 1, 4, 16, 64 runs at a time
    versions  whole commands of this checkout against those of the one in --against DIR
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

SCRIPT = """
import torch
from torch import nn
torch.set_num_threads(1)
layers = nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
model = nn.Sequential(nn.Flatten(), *layers)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
x, y = torch.randn(32, 1, 8, 8), torch.randint(10, (32,))
optimizer.zero_grad()
nn.functional.cross_entropy(model(x), y).backward()
optimizer.step()
"""
FIRST_STEP = """
import os
import trainlab.config.build as build
real = build.Door.__call__

def call(self, node, **known):  # the task is built, torch is here: leave after the first step
    made = real(self, node, **known)
    from trainlab.training.trainer import Trainer
    step = Trainer.step
    Trainer.step = lambda *given: (step(*given), os._exit(0))
    build.Door.__call__ = real
    return made

build.Door.__call__ = call
from trainlab.__main__ import entry
entry()
"""
COMMAND = ["preflight=none", "probe=none", "max_steps=1", "quiet=true"]
STACKED = {  # name -> words, R
    "digits MLP 128-64": ([], 64),
    "digits MLP 32": (["model.widths=[32]"], 64),
    "10-layer digits net": (["model.widths=[32,32,32,32,32,32,32,32,32]"], 64),
    "small CNN": (["model=cnn", "model.channels=[8,16]"], 16),
    "digits MLP 128-64, batch norm": (["norm=batch"], 64),
    "MNIST MLP 256-256": (["data=mnist", "model.widths=[256,256]", "batch_size=128"], 16),
}
WATCHED = {
    "10-layer digits net": ["model.widths=[64,64,64,64,64,64,64,64,64,64]"],
    "MNIST MLP": ["experiment=mnist", "epochs=3"],
    "MNIST CNN": ["experiment=mnist_cnn", "epochs=1", "data.train_size=25600"],
}
WHOLE = {
    "start, a run of one step": COMMAND,
    "step, 8,000 steps": ["preflight=none", "probe=none", "epochs=200", "quiet=true"],
    "watch, the defaults": ["quiet=true"],
}
SUBJECTS = {"digits MLP": ["optim=adam"], "MNIST MLP": ["experiment=mnist"]}


def pairs(a: Callable[[], float], b: Callable[[], float], n: int) -> list[float]:
    """Ratios b/a of n pairs, taken in alternating order."""
    ratios = []
    for index in range(n):
        if index % 2:
            second, first = b(), a()
        else:
            first, second = a(), b()
        ratios.append(second / first)
    return ratios


def report(name: str, ratios: list[float]) -> None:
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(
        f"{name:58s} {middle:6.3f}   quartiles {low:.3f} {high:.3f}   n {len(ratios)}", flush=True
    )


def start(n: int) -> None:
    def timed(arguments: list[str], folder: str) -> float:
        begun = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=folder, check=True, capture_output=True)
        return time.perf_counter() - begun

    with tempfile.TemporaryDirectory() as folder:
        script = partial(timed, ["-c", SCRIPT], folder)
        leaving = partial(timed, ["-c", SCRIPT + "import os; os._exit(0)"], folder)
        compose = partial(timed, ["-c", FIRST_STEP, *COMMAND], folder)
        whole = partial(timed, ["-m", "trainlab", *COMMAND], folder)
        script(), compose(), whole()
        report("start: A/A, the script against itself", pairs(script, script, n))
        report("start: to the first step / script", pairs(leaving, compose, n))
        report("start: a whole run of one step / script", pairs(script, whole, n))
        print(f"  the script takes {min(script() for _ in range(3)):.2f} s here")


def versions(n: int, other: Path) -> None:
    """This checkout / the other one, by the clock and by the CPU, as alternating processes."""

    def timed(package: Path, words: list[str]) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            begun = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "trainlab", *words], cwd=folder, check=True,
                env=os.environ | {"PYTHONPATH": str(package)}, capture_output=True,
            )  # fmt: skip
            seconds = time.perf_counter() - begun
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
            return np.array([seconds, spent])

    here = Path(__file__).resolve().parents[1]
    for name, words in WHOLE.items():
        old, new = partial(timed, other.resolve(), words), partial(timed, here, words)
        old(), new()
        for what, ratios in (("A/A", pairs(old, old, n)), ("new / old", pairs(old, new, n))):
            for clock, own in zip(("time", "CPU time"), zip(*ratios, strict=True), strict=True):
                report(f"versions: {what}, {clock}, {name}", own)


def bench_of(words: list[str]):
    """The data and the recipe of a command line, without a run."""
    from omegaconf import OmegaConf

    from trainlab.cli import compose
    from trainlab.config.build import Door
    from trainlab.experiment.phases import prepare

    with compose.hydra_session() as hydra:
        cfg = compose.check(hydra, [*words, "schedule=cosine", "device=cpu"]).cfg
    return prepare(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]), Door())


def by_trainer(bench, steps: int) -> float:
    from trainlab.training.trainer import Every, Watch

    trainer = bench.fresh()
    trainer.change(validation=None, steps=steps)
    trainer.batches(0), trainer.step(*trainer.batches(0)), trainer.record.clear()
    begun = time.perf_counter()
    trainer.fit(Every(log=50), Watch())
    return (time.perf_counter() - begun) / (steps - 1)


def by_hand(bench, steps: int) -> float:
    """What somebody who knows torch well writes: no loader, nothing brought to the host but every
    50 steps."""
    import math

    import torch

    trainer = bench.fresh()
    model, optimizer = trainer.model, trainer.optimizer
    train, batch = bench.splits.train, bench.cfg.batch_size
    scale, shift = (
        bench.preprocess.scale.expand(train.x.shape[1:]).contiguous(),
        bench.preprocess.shift,
    )
    shift = shift.expand(train.x.shape[1:]).contiguous()
    lr, n, model = optimizer.param_groups[0]["lr"], len(train), model.train()
    loss_sum, correct, at = torch.zeros(()), torch.zeros((), dtype=torch.int64), 0
    order = torch.randperm(n)
    trainer.step(*trainer.batches(0))
    begun = time.perf_counter()
    for step in range(1, steps):
        index = order[at : at + batch]
        at += batch
        if at >= n:
            order, at = torch.randperm(n), 0
        x = torch.addcmul(shift, train.x.index_select(0, index), scale)
        y = train.y.index_select(0, index)
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.zero_grad()
        logits = model(x)
        loss = torch.nn.functional.cross_entropy(logits, y)
        loss.backward()
        optimizer.step()
        loss_sum += loss.detach()
        correct += (logits.argmax(-1) == y).sum()
        if step % 50 == 0:
            loss_sum.item(), correct.item()
            loss_sum.zero_(), correct.zero_()
    return (time.perf_counter() - begun) / (steps - 1)


def step(n: int) -> None:
    for name, words in SUBJECTS.items():
        bench = bench_of(words)
        steps = 2000 if name.startswith("digits") else 300
        hand, ours = partial(by_hand, bench, steps), partial(by_trainer, bench, steps)
        hand(), ours()
        report(f"step: A/A, by hand, {name}", pairs(hand, hand, n))
        report(f"step: trainlab / by hand, {name}", pairs(hand, ours, n))
        print(f"  by hand a step takes {min(hand() for _ in range(3)) * 1e6:.0f} us here")


def probe(n: int) -> None:
    from trainlab.experiment.phases import probes
    from trainlab.observe.metrics_log import Log
    from trainlab.training.trainer import Every, Watch

    for name, words in SUBJECTS.items():
        bench = bench_of(words)
        steps = 400 if name.startswith("digits") else 60

        def run(every: int, bench=bench, steps=steps) -> float:
            with tempfile.TemporaryDirectory() as folder, Log(Path(folder), 0) as log:
                trainer = bench.fresh()
                trainer.change(validation=None, steps=steps)
                watch = Watch(probe=probes(bench, log))
                trainer.step(*trainer.batches(0))
                begun = time.perf_counter()
                trainer.fit(Every(log=50, probe=every), watch)
                return (time.perf_counter() - begun) / (steps - 1)

        off, on = partial(run, 0), partial(run, 1)
        off(), on()
        report(f"probe: A/A, probes off, {name}", pairs(off, off, n))
        ratios = pairs(off, on, n)
        report(f"probe: a probe step in plain steps, {name}", ratios)
        every = int(bench.cfg.probe.every)
        cost = (statistics.median(ratios) - 1) / every
        print(f"  so probe.every={every} costs {cost:.1%} of the training")


def watch(n: int) -> None:
    import trainlab

    for name, words in WATCHED.items():
        if root := os.environ.get("TRAINLAB_DATA") if "MNIST" in name else None:
            words = [*words, f"data.root={root}"]

        def run(*more: str, words=words) -> np.ndarray:
            """Seconds of the clock and of the CPU, which a busy machine changes less."""
            common = "quiet=true", "device=cpu", "preflight=none"
            with tempfile.TemporaryDirectory() as folder:
                begun = np.array([time.perf_counter(), time.process_time()])
                trainlab.run(*words, *common, *more, f"hydra.run.dir={folder}/run")
                return np.array([time.perf_counter(), time.process_time()]) - begun

        off, on = partial(run, "probe=none"), run
        off(), on()
        for what, ratios in (("A/A, neither", pairs(off, off, n)), ("on / off", pairs(off, on, n))):
            for clock, own in zip(("time", "CPU time"), zip(*ratios, strict=True), strict=True):
                report(f"watch: {what}, {clock}, {name}", own)
                if what == "on / off":
                    print(f"  so it takes {1 - 1 / statistics.median(own):.1%} of the run")


def stack(n: int) -> None:
    from trainlab.stack import Stack
    from trainlab.sweeps.execute.planner import SIZES, cost, planned

    for name, (words, runs) in STACKED.items():
        if root := os.environ.get("TRAINLAB_DATA") if "MNIST" in name else None:
            words = [*words, f"data.root={root}"]
        bench = bench_of([*words, "probe=none", "preflight=none"])
        singles = [bench.fresh() for _ in range(runs)]
        together = Stack([bench.fresh() for _ in range(runs)], list(range(runs))).trainer

        def alone(singles=singles) -> float:
            begun = time.perf_counter()
            for trainer in singles:
                for _ in range(10):
                    trainer.step(*trainer.batches(trainer.step_count))
            return time.perf_counter() - begun

        def as_one(together=together) -> float:
            begun = time.perf_counter()
            for _ in range(10):
                together.step(*together.batches(together.step_count))
            return time.perf_counter() - begun

        alone(), as_one()
        report(f"stack: A/A, alone, {name}, R={runs}", pairs(alone, alone, n))
        report(f"stack: alone / together, {name}, R={runs}", pairs(as_one, alone, n))
        with tempfile.TemporaryDirectory() as folder:
            plan = planned(bench, 64, None, Path(folder) / "plan.json")
        costs = {size: cost(bench, size) for size in SIZES if size <= 64}
        regret = costs[plan.size] / min(costs.values()) - 1
        shown = ", ".join(f"{size}: {1e3 * c:.3f}" for size, c in costs.items())
        print(f"  planner: {plan.size} at a time; ms a run and step {shown}; regret {regret:.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what",
        nargs="*",
        choices=["start", "step", "probe", "watch", "stack", "versions", []],
        default=["start", "step", "probe"],
    )
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--against", type=Path, help="another checkout, for versions")
    asked = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    print(
        f"torch {torch.__version__}, python {sys.version.split()[0]}, load {os.getloadavg()[0]:.1f}"
    )
    for name in asked.what:
        against = partial(versions, other=asked.against)
        {"start": start, "step": step, "probe": probe, "watch": watch, "stack": stack,
         "versions": against}[name](asked.pairs)  # fmt: skip


if __name__ == "__main__":
    main()
