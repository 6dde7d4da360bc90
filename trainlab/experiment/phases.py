"""One run, phase by phase: data, preprocess, model, init, preflight, fit, close.

The phases read cfg; `door` turns a config node into an object, and components take plain
values.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from trainlab.config import keys, words
from trainlab.data.batches import Batches, Shuffled, Unshuffled
from trainlab.data.preprocess import fit
from trainlab.data.sources import load_splits
from trainlab.data.splits import Splits
from trainlab.experiment.checkpointer import Checkpointer, checkpoint_facts
from trainlab.nn.norm import refuse_single
from trainlab.observe.console import Show
from trainlab.observe.metrics_log import Log
from trainlab.storage import atomic, checkpoint, run_folder
from trainlab.training import randomness
from trainlab.training.trainer import PLAIN, Every, Extras, Trainer, Watch

# keys and sections that add to the plain step
ADDED = "penalty", "clip", "constraint", "average", "precision", "compile", "channels_last"


@dataclasses.dataclass(frozen=True)
class Bench:
    """What all Trainers of a run share: config, door, device, data and its preprocessing."""

    cfg: DictConfig
    door: Callable
    device: torch.device
    splits: Splits
    preprocess: Any
    eval_preprocess: Any  # of validation and test; differs only with preprocess.test

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample as the model gets it: (C, H, W) or (F,)."""
        return tuple(self.preprocess.shape(self.splits.shape))

    def in_order(self, split: Any) -> Batches:
        """Batches in file order, for evaluation; 512, since larger batches only save time."""
        fitted = self.preprocess if split is self.splits.train else self.eval_preprocess
        return Batches.in_order(split, fitted, 512)

    def augment(self) -> Callable | None:
        """The augmentation of the training batches, or None."""
        if not (nodes := self.cfg.get("augment") or {}):
            return None
        from trainlab.data.augment import (
            make_augment,
        )  # not for runs that take the images as they are

        return make_augment(
            [self.door(node) for node in nodes.values()], self.cfg.seed, self.splits
        )

    def notices(self) -> list[str]:
        """Notes about the data and their augmentation, for the console."""
        if not (nodes := self.cfg.get("augment") or {}):
            return list(self.splits.notices)
        from trainlab.data.augment import label_warnings

        return [*self.splits.notices, *label_warnings(nodes, self.splits)]

    def fresh(self, plain: bool = False) -> Trainer:
        """A new Trainer at step 0, the same each time. `plain`, for preflight: without
        augmentation."""
        cfg, train = self.cfg, self.splits.train
        size = len(train) if cfg.batch_size == "full" else int(cfg.batch_size)
        sort = cfg.data.order == "sorted"
        order = Unshuffled(len(train)) if sort else Shuffled(len(train), cfg.seed)
        batches = Batches(train, self.preprocess, size, order)
        model = build_network(cfg, self.door, self.shape, len(self.splits.classes))
        refuse_single(model, batches(0)[0].cpu(), len(train), size, cfg.accumulate)
        with randomness.init_stream(cfg.seed, 1):
            shares = train.y.cpu().bincount(minlength=len(self.splits.classes)) / len(train)
            self.door(cfg.init)(model, batches(0)[0].cpu(), prior=shares)
        if not plain and (augment := self.augment()):  # after init: the same weights
            batches = batches.having(augment=augment)
        model.to(self.device)
        optimizer = self.door(cfg.optim)(self.parameters(model))
        steps = min(cfg.epochs * batches.per_epoch, cfg.max_steps or 2**62)
        trainer = Trainer(
            model,
            self.door(cfg.loss),
            optimizer,
            batches,
            steps,
            schedule=self.door(cfg.schedule),
            accumulate=cfg.accumulate,
            validation=self.in_order(self.splits.val),
            metrics=[self.door(node, name=name) for name, node in cfg.metric.items()],
            monitor=cfg.monitor,
            patience=cfg.early_stop.patience,
            smooth=cfg.log.smooth,
            extras=self.extras(model, optimizer, steps, plain),
        )
        if cfg.get("fault"):
            self.door(cfg.fault)(trainer)
        return trainer

    def extras(self, model: nn.Module, optimizer: Any, steps: int, plain: bool) -> Extras:
        """The Extras of the recipe: additions to the plain step."""
        cfg = self.cfg
        if not (self.changed(*ADDED) or cfg.groups.freeze or cfg.evaluate.statistics != "ema"):
            return PLAIN
        from trainlab.experiment.regularisation import regularise  # not needed by most runs

        values = {name: keys.values(cfg[name]) for name in (*ADDED, "groups")}
        values["statistics"] = cfg.evaluate.statistics
        values["compile"] = cfg.compile and not plain  # a check takes too few steps to repay it
        inputs = self.in_order(self.splits.train).inputs
        return regularise(model, optimizer, steps, inputs, **values)

    def changed(self, *sections: str) -> bool:
        """Whether any of these keys and sections differs from its default in config/keys.py."""
        return any(keys.values(self.cfg[name]) != keys.defaults()[name] for name in sections)

    def parameters(self, model: nn.Module) -> list[Any]:
        """The optimizer's argument: parameters, or groups that differ in lr or weight decay."""
        cfg = self.cfg
        if not (self.changed("groups") or cfg.optim.weight_decay):
            return [p for p in model.parameters() if p.requires_grad]
        from trainlab.optim.groups import parameter_groups

        rules = keys.values(cfg.groups)
        rules |= {"factors": rules.pop("lr"), "decays": rules.pop("decay")}
        return parameter_groups(model, cfg.optim.lr, cfg.optim.weight_decay, **rules)

    def cadences(self, per_epoch: int) -> Every:
        """When to log, evaluate, probe and save: an integer is steps, `2ep` is epochs."""

        def steps(name: str) -> int:
            text = str(self.cfg[name].every or 0)
            return int(text[:-2]) * per_epoch if text.endswith("ep") else int(text)

        return Every(*map(steps, ("log", "evaluate", "probe", "checkpoint")))

    def scores(self, trainer: Trainer) -> dict[str, dict[str, float]]:
        """Loss and metrics of every split, in file order, with the trainer's own preprocessing."""
        other = trainer.validation.preprocess
        used = {"train": trainer.batches.preprocess, "val": other, "test": other}
        splits = {n: Batches.in_order(getattr(self.splits, n), f, 512) for n, f in used.items()}
        figures = {}
        for name, batches in splits.items():
            row = trainer.evaluate(batches)
            figures[name] = {key: value.tolist() for key, value in row.items()}
        return figures


def build_network(cfg: DictConfig, door: Callable, shape: Sequence[int], classes: int) -> nn.Module:
    """The network of a config, on the CPU, with torch's default initial weights."""
    with randomness.init_stream(cfg.seed, 0):
        return door(cfg.model)(shape, classes, activation=door(cfg.activation), norm=door(cfg.norm))


def prepare(cfg: DictConfig, door: Callable) -> Bench:
    """Set device and threads, load the data, fit the preprocessing on the training split only."""
    device = randomness.join(cfg.device, cfg.threads, cfg.precision)
    splits = load_splits(door, *keys.split_own_keys(cfg, "data"))
    fitted = fit(door, *keys.split_own_keys(cfg, "preprocess"), splits)
    fitted = [preprocess.to(device) for preprocess in fitted]
    return Bench(cfg, door, device, splits.to(device), *fitted)


def preflight(bench: Bench, directory: Path, show: Show) -> list[Any]:
    """Run the checks of `preflight`. Raises ConfigError when training cannot work."""
    if not (nodes := bench.cfg.preflight.get("checks")):
        return []
    from trainlab.checks import preflight  # only for runs with preflight checks

    checks = {name: bench.door(node) for name, node in nodes.items()}
    stop = bench.cfg.preflight.on_fail == "stop"
    return preflight(checks, partial(bench.fresh, plain=True), stop, directory, show)


def train(
    cfg: DictConfig, directory: Path, door: Callable, choices: dict[str, Any]
) -> dict[str, Any]:
    """One run from the recipe to the closing table. Returns what summary.json holds."""
    run = phases(cfg, directory, door, choices)
    ready = next(run)
    try:
        ready.trainer.fit(ready.every, ready.watch)
        next(run)
    except StopIteration as end:
        return end.value
    except BaseException as error:
        run.throw(error)


class Train:
    """`task=train`, which a stack of runs opens phase by phase. Named by conf/task/."""

    def __call__(
        self, cfg: DictConfig, directory: Path, door: Callable, choices: dict[str, Any]
    ) -> dict[str, Any]:
        return train(cfg, directory, door, choices)


@dataclasses.dataclass(frozen=True)
class Ready:
    """A run that is ready to train: the Trainer, the arguments of its `fit`, and the parts of the
    run that made them."""

    trainer: Trainer
    every: Every
    watch: Watch
    bench: Bench
    checkpointer: Checkpointer


def phases(
    cfg: DictConfig,
    directory: Path,
    door: Callable,
    choices: dict,
    prepare=prepare,
    check=preflight,
) -> Iterator[Ready]:
    """One run except `trainer.fit(every, watch)`: yields once, ready to train, and must be resumed
    when the Trainer has ended. So a stack of runs goes through the same phases."""
    digest = keys.digest(OmegaConf.to_container(cfg, resolve=True))
    with ExitStack() as stack:
        status = stack.enter_context(run_folder.locked(directory, digest))
        stop = stack.enter_context(run_folder.signals())
        show = Show(quiet=cfg.quiet)
        show.recipe(*words.recipe(cfg, choices))
        bench = prepare(cfg, door)
        trainer = bench.fresh()
        show.data_and_model(bench.splits, choices["preprocess"], trainer.model, bench.device)
        if len(trainer.optimizer.param_groups) > 1:
            show.groups(trainer.optimizer.param_groups)
        show.notes(bench.notices())
        checkpointer = Checkpointer(
            directory, checkpoint_facts(bench), cfg.checkpoint.seconds, status
        )
        saved = None
        if cfg.resume is not None:
            from trainlab.storage import restore

            saved, notes = restore.find_checkpoint(
                directory, checkpointer.facts, trainer.steps, cfg.resume_allow
            )
            show.notes(notes)
        status.write("running")  # from here on the folder belongs to this start
        atomic.write(directory / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True).encode())
        bench.preprocess.write_file(directory)
        verdicts = check(bench, directory, show)
        randomness.seed_everything(cfg.seed, "dropout")
        if saved:
            restore.resume(directory, saved, trainer)
        length = checkpointer.resume(saved) if saved else 0  # bytes of metrics.jsonl that count
        log = checkpointer.log = stack.enter_context(Log(directory, length, charts(cfg)))
        if not length:
            log.text("recipe", words.recipe_table(cfg, choices))
        rows = partial(write_rows, trainer, log, show)
        after = partial(checkpointer.after, stop)
        watch = Watch(rows, probes(bench, log), checkpointer.save, after)
        if watch.probe is not None:
            from trainlab.doctor.watch import watching  # reads what the probes wrote

            watch = stack.enter_context(watching(bench, trainer, log, show, watch))
        show.start(trainer.step_count, trainer.steps, trainer.facts)
        stack.callback(show.stop)
        every = bench.cadences(trainer.batches.per_epoch)
        yield Ready(trainer, every, watch, bench, checkpointer)
        show.stop()
        if bench.device.type == "cpu":
            show.threads_hint(cfg.threads, trainer.step_count)

        summary = close(bench, trainer, log)
        summary["verdicts"] = {v.name: v.status for v in verdicts}
        summary |= checkpointer.totals() | {"config_digest": digest, "directory": str(directory)}
        atomic.write_json(directory / "summary.json", summary)
        status.write("finished")
    show.closing(summary["results"], trainer.facts, summary["best_step"], verdicts, directory)
    return summary


def write_rows(
    trainer: Trainer, log: Log, show: Show, step: int, values: dict[str, Tensor]
) -> None:
    """Write one row to the log and the console."""
    row = {tag: float(value) for tag, value in values.items()}
    show.row(step, row)
    log.scalars(step, row | trainer.extra_metrics(trainer))


def charts(cfg: DictConfig) -> Any:
    """The TensorBoard charts of the probes, or None without probes."""
    if len(cfg.probe) == 1:  # `every`
        return None
    from trainlab.observe.charts import Charts  # and with it PIL

    return Charts()


def probes(
    bench: Bench, log: Log
) -> Callable[[Trainer, Tensor, Tensor], AbstractContextManager] | None:
    """The callback that wraps a probed step (state before and after), or None without probes."""
    nodes = {name: node for name, node in bench.cfg.probe.items() if name != "every"}
    if not nodes:
        return None
    from trainlab.observe.capture import probe_step

    built = {name: bench.door(node) for name, node in nodes.items()}
    return partial(probe_step, built, log)


def close(bench: Bench, trainer: Trainer, log: Log) -> dict[str, Any]:
    """Evaluate the best weights on the three splits. Only here is the test split used."""
    if trainer.best:
        trainer.model.load_state_dict(trainer.best)
    results = bench.scores(trainer)
    figures = [(split, name) for split in results for name in trainer.facts]
    best = {f"best/{split}_{name}": results[split][name] for split, name in figures}
    log.scalars(trainer.step_count, best)
    log.sync()
    return {
        "results": results,
        "metrics": {name: dataclasses.asdict(facts) for name, facts in trainer.facts.items()},
        "best_step": trainer.best_at(),
        "steps": trainer.step_count,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "speed": {key: bench.cfg[key] for key in ("precision", "compile", "channels_last")},
        "weights_sha256": checkpoint.digest(trainer.model.state_dict()),
        "environment": randomness.environment(bench.device),
    }
