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
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent))

import trainlab
from trainlab import command, log, story, world
from trainlab.build import Door
from trainlab.doctor.examine import Doctor, examine
from trainlab.errors import ConfigError, NonFiniteError

PACKAGE = Path(trainlab.__file__).parent
FROZEN = Path(__file__).resolve().parents[1] / "docs" / "thresholds.json"
COMMON = ["device=cpu", "quiet=true", "preflight=full", "task=train", "epochs=8"]
INVARIANT = {"data_nonfinite", "init_zero", "init_symmetric", "graph_batch_leak",
             "graph_input_ignored", "loop_no_zero_grad", "loop_param_not_updated"}  # fmt: skip
# no metric of the run shows them, and they are wrong all the same
SILENT = {"data_leak", "loop_param_not_updated", "loop_seed_reset", "arch_double_softmax",
          "loss_sum_reduction"}  # fmt: skip
# what a fault may be called beside its own name, where two names say the same
ALSO = {
    "optim_lr_mismatch": ["optim.lr_low", "optim.lr_high"],
    # sigmoid(0.3 x) and tanh(100 x) are sigmoid and tanh behind weights 0.3 and 100 times as large
    "grad_vanishing": ["act.saturated", "init.mismatch", "init.too_small"],
    "grad_exploding": ["act.saturated", "init.mismatch", "init.too_large"],
    # the lr is too high for such a batch: Goyal et al. 2017
    "optim_noisy": ["optim.lr_high"],
    "init_mismatch": ["init.too_small", "init.too_large"],
    "init_too_small": ["init.mismatch"],
    "init_too_large": ["init.mismatch"],
}
NEEDS = {"optim_eps": ["optim=adam"], "norm_mode": ["norm=batch"], "loop_mode": ["norm=batch"]}
PRIVATE = ["model._target_=private_nets.handmade", "trust=[private_nets]", "init=torch_default"]
# severities: (of pool fit, of pool report)
LADDER = {
    "data_unnormalised": ((255, 20), (150,)), "data_double_norm": ((1,), (3,)),
    "data_constant_input": ((1.0,), (0.9,)), "data_nonfinite": ((1,), (3,)),
    "data_labels_random": ((1.0,), (0.9,)), "data_misaligned": ((1, -2), (3,)),
    "data_label_noise": ((0.4, 0.2), (0.35, 0.12)), "data_imbalance": ((0.02,), (0.03,)),
    "data_conflicting_labels": ((0.5,), (0.4,)), "data_noisy_input": ((2.0, 1.0), (1.7,)),
    "data_leak": ((1.0,), (0.7,)), "data_split_shift": ((1.0, 50), (30.0,)),
    "data_not_shuffled": ((1.0, 0.9), (0.97,)), "fit_overfit": ((60, 30), (50,)),
    "init_zero": ((0.0,), (0.0,)), "init_symmetric": ((0.01, 0.1), (0.02,)),
    "init_too_small": ((0.01, 0.003), (0.004,)), "init_too_large": ((1.0, 3.0), (2.0,)),
    "init_mismatch": ((0.4, 2.5), (0.45, 2.3)), "grad_vanishing": ((0.3, 1.0), (0.25, 0.8)),
    "grad_exploding": ((100.0, 30.0), (80.0,)), "act_dead": ((5.0, 10.0), (8.0,)),
    "arch_linear": ((1.0,), (1.0,)), "arch_output_activation": ((1.0,), (0.95,)),
    "arch_double_softmax": ((1.0,), (0.9,)), "reg_dropout_high": ((0.95, 0.9), (0.92, 0.96)),
    "norm_mode": ((8, 4), (5, 2)), "loss_sign": ((1.0,), (0.3,)),
    "loss_sum_reduction": ((1.0,), (0.7,)), "graph_batch_leak": ((0.3, 1.0), (0.7,)),
    "graph_input_ignored": ((1.0,), (1.0,)), "optim_lr_low": ((1e-3, 1e-4), (2e-3, 2e-4)),
    "optim_lr_high": ((100.0, 1000.0), (70.0,)), "optim_lr_mismatch": ((1e-4,), (5e-5, 3.0)),
    "optim_noisy": ((1, 2), (1,)), "optim_few_updates": ((1.0,), (0.9,)),
    "optim_overclipped": ((1e-4, 1e-3), (5e-4,)), "optim_eps": ((1.0, 10.0), (5.0,)),
    "reg_weight_decay_high": ((3.0, 1.0), (1.5,)), "sched_wrong_unit": ((30.0, 10.0), (25.0,)),
    "fit_undertrained": ((0.05, 0.02), (0.03,)), "loop_no_zero_grad": ((0,), (0,)),
    "loop_param_not_updated": ((1,), (2,)), "loop_seed_reset": ((1,), (2,)),
    "loop_mode": ((1.0,), (0.8,)),
}  # fmt: skip
# more subjects of the healthy runs of pool fit
THIN = ["model=cnn", "model.channels=[6,12]"]
ELU = ["model.widths=[64,64,64]", "activation=elu"]
TABLES = "data=wine", "data=breast_cancer"


def subjects(pool: str, mnist: str | None) -> dict[str, list[str]]:
    """Name -> overrides."""
    if pool != "report":
        return {
            "mlp": ["model.widths=[128,128,128,128]"],
            "cnn": ["model=cnn"],
            "bn": ["model.widths=[128,64]", "norm=batch", "model.dropout=0.2"],
        }
    other = ["data=npz", f"data.root={mnist}"] if mnist else ["data=blobs"]
    return {
        "mlp": ["model.widths=[96,96,96,96,96]", "activation=gelu", "data.split_seed=11"],
        "cnn": ["model=cnn", "model.channels=[10,20]", *other] if mnist else ["model=cnn"],
        "bn": ["model.widths=[160,80,80]", "norm=batch", "model.dropout=0.15", *other],
    }


# name -> overrides of runs that look like trouble and are none
HARD = {
    "defaults": [],
    "constant lr": ["schedule=constant", "optim.lr=0.02"],
    "long warm-up": ["schedule.warmup=0.5"],
    "step decay": ["schedule=step"],
    "batch norm, lr 0.2": ["norm=batch", "optim.lr=0.2"],
    "batch norm, few samples": ["norm=batch", "data.train_size=300"],
    "batch norm and dropout": ["norm=batch", "model.dropout=0.3"],
    "strong dropout": ["model.dropout=0.5"],
    "converged": ["epochs=40"],
    "frozen on purpose": ["groups.freeze=[hidden1*]"],
    "accumulation": ["accumulate=4"],
    "label smoothing": ["loss.label_smoothing=0.1"],
    "tiny batch": ["batch_size=4", "optim.lr=0.01", "epochs=3"],
    "large batch": ["batch_size=128"],
    "ema": ["average.ema=0.98"],
    "swa": ["average.swa=0.7"],
    "clip": ["clip.norm=5"],
    "mixup": ["augment=[mixup]"],
    "shift": ["augment=[shift]"],
    "adam": ["optim=adam"],
    "nadam, elu": ["optim=nadam", "activation=elu"],
    "adamw decay 0.1": ["optim=adamw", "optim.weight_decay=0.1"],
    "rmsprop": ["optim=rmsprop"],
    "sgd": ["optim=sgd", "optim.lr=0.1"],
    "l2": ["penalty.l2=0.001"],
    "tanh xavier": ["activation=tanh", "init=xavier_normal"],
    "gelu": ["activation=gelu"],
    "leaky relu": ["activation=leaky_relu"],
    "selu lecun": ["activation=selu", "init=lecun_normal", "optim.lr=0.01"],
    "orthogonal": ["init=orthogonal", "init.gain=auto"],
    "maxout": ["activation=maxout", "optim.lr=0.01"],
    "layer norm": ["norm=layer"],
    "mse": ["loss=mse", "optim=adam"],
    "focal": ["loss=focal"],
    "scale01": ["preprocess=scale01"],
    "image mean": ["preprocess=center_image"],
    "wine": [TABLES[0], "epochs=40"],
    "breast cancer": [TABLES[1], "epochs=12"],
    "two moons": ["data=two_moons", "epochs=10"],
    "spirals, a plateau": ["data=spirals", "epochs=20"],
    "few samples, early stop": [
        "data.train_size=300",
        "early_stop.patience=3",
        "penalty.l2=0.001",
        "epochs=40",
    ],
    "bf16": ["precision=bf16"],
    "linear": ["model=linear"],
    "residual": ["model=residual_mlp"],
    "max norm": ["constraint.max_norm=3"],
    "gaussian noise": ["augment=[noise]"],
    "three classes": ["data.classes=[0,1,2]"],
    "head of zeros": ["init.head=zero"],
}


def faulty(pool: str, mnist: str | None, seeds: range) -> Iterator[dict[str, Any]]:
    """The specification of every faulty run; every third word on a private network as well."""
    own = subjects(pool, mnist)
    for place, (word, ladder) in enumerate(LADDER.items()):
        levels = ladder[pool == "report"]
        tried = own | ({"private": [*own["mlp"], *PRIVATE]} if place % 3 == 0 else {})
        for subject, lines in tried.items():
            for severity in levels:
                for seed in seeds:
                    yield {"pool": pool, "kind": "fault", "fault": word, "severity": severity,
                           "subject": subject, "private": subject == "private", "seed": seed,
                           "lines": merged(lines, NEEDS.get(word, []))}  # fmt: skip


def healthy(pool: str, mnist: str | None, seeds: range) -> Iterator[dict[str, Any]]:
    own = subjects(pool, mnist)
    small = {"mlp": own["mlp"], "cnn": own["cnn"]}
    if pool == "fit":
        small |= {"thin": THIN, "elu": ELU}
    for variant, lines in HARD.items():
        table = any(line.startswith("data=") for line in lines)
        model = any(line.startswith("model=") for line in lines)
        for subject, base in small.items():
            if "model=cnn" in base and (table or model or "groups.freeze=[hidden1*]" in lines):
                continue
            base = [line for line in base if not (model and line.startswith("model."))]
            for seed in seeds:
                yield {"pool": pool, "kind": "healthy", "fault": None, "severity": None,
                       "subject": subject, "variant": variant, "private": False, "seed": seed,
                       "lines": merged(base, lines)}  # fmt: skip


def merged(*parts: list[str]) -> list[str]:
    """Of two values for one key the later counts."""
    return list({line.partition("=")[0]: line for part in parts for line in part}.values())


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
    rows = list(log.rows(path)) if path.exists() else []
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
    world.seed_everything(bench.cfg.seed, "dropout")
    watch.before(trainer)
    trainer.train_mode(trainer.model)
    losses = []
    for _ in range(trainer.steps):
        losses.append(trainer.step(*trainer.batches(trainer.at)).detach())
        watch.watch(trainer)
        if not losses[-1].isfinite():
            break
    criterion, trainer.criterion = trainer.criterion, functional.cross_entropy
    with torch.no_grad():
        seen = trainer.evaluate(trainer.validation)
    trainer.criterion = criterion
    final = {name: float(value) for name, value in seen.items()}
    final["train_loss"] = float(torch.stack(losses[-20:]).mean())
    return {"final": final, "published": watch.names(trainer)}


def bench_of(lines: list[str]) -> story.Bench:
    """The data and the recipe of a command line."""
    with command.loaded() as hydra:
        cfg = command.check(hydra, lines).ours
    return story.prepare(cfg, Door(cfg.trust))


def few_of(mnist: str, folder: str) -> str:
    """A file of 1,700 images of MNIST, which loads faster than all of them a thousand times. The
    first 2,500 were in an earlier pool."""
    train = bench_of(["data=mnist", f"data.root={mnist}", "probe=none"]).splits.train
    path = f"{folder}/images.npz"
    np.savez(path, x=train.x[2500:4200].numpy(), y=train.y[2500:4200].numpy())
    return path


def key(row: dict[str, Any]) -> str:
    return json.dumps([kind(row), row["seed"]])


def kind(row: dict[str, Any]) -> str:
    """Of a run, all but the seed."""
    names = "pool", "kind", "fault", "severity", "subject", "variant"
    return json.dumps([row.get(name) for name in names])


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
    for path in sorted(PACKAGE.glob("doctor/*.py")) + sorted(PACKAGE.glob("checks/*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).strip("()").isupper():
                value = ast.unparse(node.value)
                if any(c.isdigit() for c in value):
                    name = ast.unparse(node.targets[0])
                    found[f"{path.relative_to(PACKAGE)}: {name}"] = value
    text = json.dumps(found, sort_keys=True).encode()
    return {"sha256": hashlib.sha256(text).hexdigest(), "constants": found}


def specs_of(pool: str, mnist: str | None) -> list[dict[str, Any]]:
    seeds = {"fit": range(3), "report": range(200, 203), "slice": range(1)}[pool]
    many = {"fit": range(10, 12), "report": range(210, 214), "slice": range(10, 11)}[pool]
    specs = [*faulty(pool, mnist, seeds), *healthy(pool, mnist, many)]
    if pool == "slice":
        first = {spec["fault"]: spec for spec in reversed(specs) if spec["subject"] != "private"}
        plain = [spec for spec in specs if spec["kind"] == "healthy" and spec["subject"] == "mlp"]
        return [spec for word, spec in first.items() if word] + plain[:20]
    # by level, in an order of its own, so that what is done of it is a sample of the whole
    kinds = sorted({kind(spec) for spec in specs})
    random.Random(0).shuffle(kinds)
    return sorted(specs, key=lambda spec: kinds.index(kind(spec)))


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
