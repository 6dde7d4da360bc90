"""Every planted fault against the doctor, and healthy runs beside them.

    python scripts/fault_benchmark.py fit results.jsonl --jobs 2
    python scripts/fault_benchmark.py freeze docs/thresholds.json
    python scripts/fault_benchmark.py report results.jsonl --jobs 2 --mnist DIR
    python scripts/fault_benchmark.py slice results.jsonl
    python scripts/fault_report.py results.jsonl docs/doctor.md docs/confusion.png

Pools `fit` and `report` share no seed, width, depth or severity, and the data of `report` is other
data too (without --mnist: blobs in its place). One line of JSON a run is appended; runs that a file
holds already are not run again. `slice` is what the tests run.
"""

import argparse
import ast
import hashlib
import json
import multiprocessing
import sys
import tempfile
import time
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fault_plan import ALSO, INVARIANT, SILENT, kind, merged, specs_of

import trainlab
from trainlab.cli import compose
from trainlab.config.build import Door
from trainlab.doctor.examine import Doctor, examine
from trainlab.errors import ConfigError, NonFiniteError
from trainlab.experiment import phases
from trainlab.observe import metrics_log
from trainlab.training import randomness

PACKAGE = Path(trainlab.__file__).parent
FROZEN = Path(__file__).resolve().parents[1] / "docs" / "thresholds.json"
COMMON = ["device=cpu", "quiet=true", "preflight=full", "task=train", "epochs=8"]


def run(spec: dict[str, Any], twice: bool = True) -> dict[str, Any] | None:
    """One row of the results; None where the fault cannot be had with this subject. `twice`: with
    the published rules and the healthy twin, which need trainings of their own."""
    begun = time.monotonic()
    lines = [*COMMON, f"seed={spec['seed']}"]
    if spec["fault"]:
        lines += [f"fault={spec['fault']}", f"fault.severity={spec['severity']}"]
    lines = merged(lines, spec["lines"])
    row = {key: value for key, value in spec.items() if key != "lines"}
    with tempfile.TemporaryDirectory() as folder:
        error = ""
        try:
            trainlab.run(*lines, f"hydra.run.dir={folder}/run")
        except (NonFiniteError, ConfigError) as problem:
            if not (Path(folder) / "run" / "verdicts.json").exists():
                return None  # refused: nothing to plant here
            error = str(problem)
        row |= outcome(Path(folder) / "run") | {"error": error}
    word = spec["fault"]
    if twice:
        row |= again(tuple(lines))
    if word:
        row["right"] = [word.replace("_", ".", 1), *ALSO.get(word, ())]
        row |= {"invariant": word in INVARIANT, "silent": word in SILENT}
    if word and twice:
        plain = tuple(line for line in lines if not line.startswith("fault"))
        row["twin"] = again(plain)["final"]
    return row | {"seconds": round(time.monotonic() - begun, 2)}


def outcome(folder: Path) -> dict[str, Any]:
    """The findings of a run's folder, each with the step at which it was first told."""
    told: dict[str, int] = {}
    doctor, at = Doctor(), 0
    path = folder / "metrics.jsonl"
    rows = list(metrics_log.rows(path)) if path.exists() else []
    for row, after in pairwise([*rows, {"step": -1}]):
        doctor.feed(row)
        at = row.get("step", at)
        if after.get("step", at) != at:
            for finding in doctor.findings():
                if finding.severity != "info":
                    told.setdefault(finding.id, at)
    found = []
    for f in examine(folder):
        since = 0 if f.tag == "preflight" else told.get(f.id, at)
        one = {"id": f.id, "severity": f.severity, "follows": f.follows, "since_step": since}
        found.append(one)
    return {"findings": found, "steps": at}


@cache
def again(lines: tuple[str, ...]) -> dict[str, Any]:
    """The same training once more, with the published rules beside it; its result by accuracy and
    plain cross entropy."""
    from published_rules import Published

    bench = bench_of([line for line in lines if not line.startswith(("preflight", "task"))])
    trainer, watch = bench.fresh(), Published()
    randomness.seed_everything(bench.cfg.seed, "dropout")
    watch.before(trainer)
    trainer.set_train_mode(trainer.model)
    losses = []
    for _ in range(trainer.steps):
        losses.append(trainer.step(*trainer.batches(trainer.step_count)).detach())
        watch.watch(trainer)
        if not losses[-1].isfinite():
            break
    criterion = trainer.criterion
    trainer.change(criterion=functional.cross_entropy)
    with torch.no_grad():
        seen = trainer.evaluate(trainer.validation)
    trainer.change(criterion=criterion)
    final = {name: float(value) for name, value in seen.items()}
    final["train_loss"] = float(torch.stack(losses[-20:]).mean())
    return {"final": final, "published": watch.names(trainer)}


def bench_of(lines: list[str]) -> phases.Bench:
    """The data and the recipe of a command line."""
    with compose.hydra_session() as hydra:
        cfg = compose.check(hydra, lines).ours
    return phases.prepare(cfg, Door(cfg.trust))


def few_of(mnist: str, folder: str) -> str:
    """A file of 1,700 images of MNIST, which loads faster than all of them a thousand times. The
    first 2,500 were in an earlier pool."""
    train = bench_of(["data=mnist", f"data.root={mnist}", "probe=none"]).splits.train
    path = f"{folder}/images.npz"
    np.savez(path, x=train.x[2500:4200].numpy(), y=train.y[2500:4200].numpy())
    return path


def key(row: dict[str, Any]) -> str:
    return json.dumps([kind(row), row["seed"]])


def attempt(spec: dict[str, Any]) -> dict[str, Any] | None:
    """`run`, twice for the pool that is reported. One that torch itself refuses (batch norm on one
    sample) does not end the others."""
    try:
        return run(spec, twice=spec["pool"] == "report")
    except Exception as error:
        print(f"\n{key(spec)}: {type(error).__name__}: {error}", file=sys.stderr)
        return None


def thresholds() -> dict[str, Any]:
    """Every number that a rule or a check compares with: the constants at the top of the files of
    trainlab/doctor and trainlab/checks, and the digest of them all."""
    found = {}
    for path in sorted(PACKAGE.glob("doctor/**/*.py")) + sorted(PACKAGE.glob("checks/*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).strip("()").isupper():
                value = ast.unparse(node.value)
                if any(c.isdigit() for c in value):
                    name = ast.unparse(node.targets[0])
                    found[f"{path.relative_to(PACKAGE)}: {name}"] = value
    text = json.dumps(found, sort_keys=True).encode()
    return {"sha256": hashlib.sha256(text).hexdigest(), "constants": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pool", choices=("fit", "freeze", "report", "slice"))
    parser.add_argument("results", type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--mnist", help="folder of MNIST, for the pool `report`")
    parser.add_argument("--only", help="a part of the words and variants, for a closer look")
    args = parser.parse_args()
    if args.pool == "freeze":
        args.results.write_text(json.dumps(thresholds(), indent=1) + "\n")
        return
    if args.pool == "report" and json.loads(FROZEN.read_text()) != thresholds():
        sys.exit(f"thresholds are not those of {FROZEN}: freeze them before they are reported on")
    done = set()
    if args.results.exists():
        done = {key(json.loads(line)) for line in args.results.read_text().splitlines()}
    folder = tempfile.TemporaryDirectory()
    images = few_of(args.mnist, folder.name) if args.mnist else None
    specs = [spec for spec in specs_of(args.pool, images) if key(spec) not in done]
    if args.only:
        named = [spec.get("fault") or spec.get("variant") for spec in specs]
        specs = [s for s, name in zip(specs, named, strict=True) if args.only in name]
    context = multiprocessing.get_context("spawn")
    with context.Pool(args.jobs) as pool, open(args.results, "a") as file:
        for number, row in enumerate(pool.imap_unordered(attempt, specs), 1):
            if row is not None:
                file.write(json.dumps(row) + "\n")
                file.flush()
            print(f"\r{number} of {len(specs)}", end="", file=sys.stderr)


if __name__ == "__main__":
    main()
