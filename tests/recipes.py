"""Trainers of a command line, with faults planted in their data."""

from dataclasses import replace
from functools import partial

from torch import nn

from trainlab.cli import compose
from trainlab.config.build import Door
from trainlab.data.splits import Split
from trainlab.experiment import phases


def bench(*typed, change=None):
    """The bench of a command line; `change(splits)` plants a fault in the data."""
    from omegaconf import OmegaConf

    with compose.hydra_session() as hydra:
        cfg = compose.check(hydra, ["preflight=full", "device=cpu", *typed]).cfg
    made = phases.prepare(
        OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]), Door()
    )
    return made if change is None else replace(made, splits=change(made.splits))


def fresh(*typed, change=None):
    return partial(bench(*typed, change=change).fresh, plain=True)


def with_train(splits, x=None, y=None):
    train = Split(splits.train.x if x is None else x, splits.train.y if y is None else y)
    return replace(splits, train=train)


def net(*layers):
    return nn.Sequential(nn.Flatten(), *layers)
