"""R single Trainers in float64, and the stack of them."""

import torch
from omegaconf import OmegaConf

from trainlab.stack import Stack
from trainlab.training import randomness
from trainlab.training.trainer import Every, Trainer, Watch

PLAIN = ["preflight=none", "probe=none", "device=cpu", "data.train_size=160", "model.widths=[16,8]"]
LRS = 0.1, 0.03, 0.01, 0.2
SEEDS = 3, 1, 4, 1


def typed(*overrides: str) -> list[str]:
    """PLAIN with these in place of its own."""
    lines = {line.partition("=")[0].lstrip("+"): line for line in [*PLAIN, *overrides]}
    if lines.get("model", "model=mlp") != "model=mlp" and "model.widths" not in str(overrides):
        del lines["model.widths"]
    return list(lines.values())


def single(bench, own: dict, dtype=torch.float64) -> Trainer:
    """A fresh Trainer of this bench with some keys of its own; its dropout stream begins."""
    before = bench.cfg.copy()
    try:
        for key, value in own.items():
            OmegaConf.update(bench.cfg, key, value)
        trainer = bench.fresh()
        randomness.seed_everything(bench.cfg.seed, "dropout")
    finally:
        bench.cfg.merge_with(before)
    trainer.model.to(dtype)
    for batches in (trainer.batches, trainer.validation):
        batches.preprocess = batches.preprocess.to(torch.device("cpu"), dtype)
    if trainer.average is not None:
        trainer.change(average=trainer.average.of(trainer.model))
    return trainer


def rows_of(trainer: Trainer, every: Every) -> list:
    rows: list = []
    trainer.fit(every, Watch(rows=lambda step, values: rows.append((step, values))))
    return rows


def compare(bench, owns: list[dict], every: Every) -> Stack:
    """The stack of `owns` against each alone: rows, weights, buffers, best weights and step."""
    group = Stack([single(bench, own) for own in owns], [own["seed"] for own in owns])
    rows = rows_of(group.trainer, every)
    for run, own in enumerate(owns):
        alone = single(bench, own)
        for (step, values), (at, both) in zip(rows_of(alone, every), rows, strict=True):
            assert step == at
            assert values.keys() == both.keys()
            for tag, value in values.items():
                close(both[tag][run] if both[tag].dim() else both[tag], value, f"{tag}, {step}")
        mine = group.weights_of(run, group.model.state_dict())
        for state, theirs in (
            (mine, alone.model.state_dict()),
            (group.weights_of(run, group.trainer.best), alone.best),
        ):
            assert state.keys() == theirs.keys()
            for name, value in theirs.items():
                close(state[name], value, f"run {run}: {name}")
        if alone.best_step is not None:
            assert group.trainer.best_step[run] == alone.best_step
    return group


def close(mine, theirs, told: str) -> None:
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9, msg=lambda text: f"{told}: {text}")
