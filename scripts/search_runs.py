"""Runs on the digits, trained together and kept: what the scripts that measure searches draw on."""

import copy
import json
import math
from collections.abc import Generator, Iterable
from functools import cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from trainlab.cli import compose
from trainlab.config.build import Door
from trainlab.experiment import phases
from trainlab.stack import Stack
from trainlab.stack.batches import Repeated
from trainlab.sweeps.search.space import Ask, Space
from trainlab.training.trainer import Trainer

TOGETHER = 128  # runs of a stack; as fast a run as 64 and 256


def hydra_of(*lines: str) -> tuple:
    """A checked config and the space of its sweeps."""
    plain = ["device=cpu", "probe=none", "preflight=none", "schedule=constant", "epochs=4",
             "data.train_size=800", "model.widths=[64]"]  # fmt: skip
    with compose.hydra_session() as hydra:
        parser = OverridesParser.create(config_loader=hydra.config_loader)
        swept = [line for line in lines if "interval" in line]
        typed = {line.partition("=")[0]: line for line in (*plain, *lines) if line not in swept}
        cfg = compose.check(hydra, list(typed.values())).ours
        return cfg, Space.of(parser.parse_overrides(swept))


def space_of(*lines: str) -> Space:
    return hydra_of(*lines)[1]


class Runs:
    """Trained runs of one repetition and recipe: setting -> its validation loss after the steps
    `marks` and at the end, and its accuracy on the test split. Nothing is trained twice."""

    @classmethod
    @cache
    def of(cls, rep: int, lines: tuple[str, ...], marks: tuple[int, ...] = ()) -> "Runs":
        return cls(rep, *lines, marks=marks)

    def __init__(self, rep: int, *lines: str, marks: Iterable[int] = ()):
        cfg, _ = hydra_of(f"data.split_seed={rep}", f"seed={rep}", *lines)
        self.bench, self.marks = phases.prepare(cfg, Door()), set(marks)
        self.losses: dict[tuple, dict[int, float]] = {}
        self.accuracies: dict[tuple, float] = {}
        self.first = self.bench.fresh()
        self.steps = self.first.steps

    def train(self, settings: Iterable[dict[str, str]]) -> None:
        keys = {tuple(own.items()) for own in settings} - self.losses.keys()
        new = sorted(keys)
        for begin in range(0, len(new), TOGETHER):
            self._together(new[begin : begin + TOGETHER])

    def fresh(self, setting: tuple) -> Trainer:
        """As `bench.fresh()`; where only the optimizer differs, the rest is a copy: 1 ms."""
        for name, text in setting:
            OmegaConf.update(self.bench.cfg, name, json.loads(text))
        if not all(name.startswith("optim.") for name, _ in setting):
            return self.bench.fresh()
        like, cfg = self.first, self.bench.cfg
        model = copy.deepcopy(like.model)
        optimizer = self.bench.door(cfg.optim)(self.bench.parameters(model))
        return Trainer(model, like.criterion, optimizer, like.batches, like.steps,
                       schedule=like.schedule, validation=like.validation,
                       metrics=like.metrics)  # fmt: skip

    def _together(self, settings: list[tuple]) -> None:
        before = self.bench.cfg.copy()
        trainers = [self.fresh(own) for own in settings]
        self.bench.cfg.merge_with(before)
        group = Stack(trainers, list(range(len(trainers))))
        trainer, splits = group.trainer, self.bench.splits
        trainer.set_train_mode(trainer.model)
        while trainer.step_count < trainer.steps:
            trainer.step(*trainer.batches(trainer.step_count))
            trainer.record.clear()
            if trainer.step_count in self.marks or trainer.step_count == trainer.steps:
                seen = trainer.evaluate(Repeated(self.bench.in_order(splits.val), group.ids))
                trainer.not_finite(trainer, trainer.step_count, "val/loss", seen["loss"])
                alive = trainer.optimizer.alive
                for own, loss, good in zip(settings, seen["loss"], alive, strict=True):
                    self.losses.setdefault(own, {})[trainer.step_count] = (
                        float(loss) if good else None
                    )
        test = trainer.evaluate(Repeated(self.bench.in_order(splits.test), group.ids))
        self.accuracies |= dict(zip(settings, test["accuracy"].tolist(), strict=True))

    def score(self, ask: Ask) -> float | None:
        return self.losses[tuple(ask.values.items())][round(ask.until * self.steps)]

    def search(self, sampler: Generator) -> tuple[float, float, float, float]:
        """(test accuracy, validation loss and lr of the run that a sampler's search picks, and
        its cost in whole runs)."""
        full, spent = {}, {}
        scores = None
        while True:
            try:
                batch = next(sampler) if scores is None else sampler.send(scores)
            except StopIteration:
                break
            self.train(ask.values for ask in batch)
            scores = [self.score(ask) for ask in batch]
            for ask, score in zip(batch, scores, strict=True):
                key = tuple(ask.values.items())
                spent[key] = ask.until
                if ask.until == 1 and score is not None:
                    full[key] = score
        if not full:
            return 0.1, math.log(10), math.nan, sum(spent.values())
        best = min(full, key=full.get)
        lr = float(dict(best)["optim.lr"])
        return self.accuracies[best], full[best], lr, sum(spent.values())
