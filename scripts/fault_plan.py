"""What the fault benchmark runs: subjects, severities and kinds of healthy runs of each pool."""

import json
import random
from collections.abc import Iterator
from typing import Any

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


def kind(row: dict[str, Any]) -> str:
    """Of a run, all but the seed."""
    names = "pool", "kind", "fault", "severity", "subject", "variant"
    return json.dumps([row.get(name) for name in names])
