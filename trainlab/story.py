"""The story of one run, chapter by chapter: data, preprocess, model, init, preflight, fit, close.

The only reader of cfg. `door` turns a config node into an object; everything below takes plain
values.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from trainlab import __version__, checkpoint, durable, rundir, spine, words, world
from trainlab.data.batches import Batches, shuffled, unshuffled
from trainlab.data.preprocess import fit
from trainlab.data.sources import loaded
from trainlab.data.splits import Splits
from trainlab.errors import ConfigError
from trainlab.keeper import Keeper
from trainlab.log import Log
from trainlab.optim import penalty
from trainlab.show import Show
from trainlab.train import Every, Trainer, Watch


@dataclasses.dataclass(frozen=True)
class Bench:
    """What every Trainer of one run shares: the config, the door, the device, the data and its
    preprocessing."""

    cfg: DictConfig
    door: Callable
    device: torch.device
    splits: Splits
    preprocess: Any
    unlike: Any  # what validation and test go through: the same, but for preprocess.test

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a sample as the model gets it: (C, H, W) or (F,)."""
        return tuple(self.preprocess.shape(self.splits.shape))

    def in_order(self, split: Any) -> Batches:
        """For evaluation, where larger batches only save time."""
        fitted = self.preprocess if split is self.splits.train else self.unlike
        return Batches.in_order(split, fitted, max(self.cfg.batch_size, 512))

    def fresh(self) -> Trainer:
        """A Trainer at step 0: the same weights, batches and optimizer each time."""
        cfg, train = self.cfg, self.splits.train
        kind = shuffled if cfg.data.order == "shuffled" else unshuffled
        order = partial(kind, len(train), cfg.seed)
        batches = Batches(train, self.preprocess, cfg.batch_size, order)
        model = build_network(cfg, self.door, self.shape, len(self.splits.classes))
        with init_stream(cfg.seed, 1):
            self.door(cfg.init)(model, batches(0)[0].cpu())
        model.to(self.device)
        refuse_single_image(model, len(train), cfg.batch_size)
        steps = min(cfg.epochs * batches.per_epoch, cfg.max_steps or 2**62)
        return Trainer(
            model,
            self.door(cfg.loss),
            self.door(cfg.optim)([p for p in model.parameters() if p.requires_grad]),
            batches,
            steps,
            schedule=self.door(cfg.schedule),
            penalty=partial(penalty.l2, strength=cfg.penalty.l2) if cfg.penalty.l2 else None,
            clip=partial(penalty.clip_factor, norm=cfg.clip.norm) if cfg.clip.norm else None,
            validation=self.in_order(self.splits.val),
            monitor=cfg.monitor,
        )

    def scores(self, trainer: Trainer) -> dict[str, dict[str, float]]:
        """Loss and accuracy of every split, in file order."""
        splits = {name: getattr(self.splits, name) for name in ("train", "val", "test")}
        seen = {name: trainer.evaluate(self.in_order(split)) for name, split in splits.items()}
        return {name: {key: float(v) for key, v in row.items()} for name, row in seen.items()}


def build_network(cfg: DictConfig, door: Callable, shape: Sequence[int], classes: int) -> nn.Module:
    """The network of a config, on the CPU, as torch's own layers start it."""
    with init_stream(cfg.seed, 0):
        return door(cfg.model)(shape, classes, activation=door(cfg.activation), norm=door(cfg.norm))


def refuse_single_image(model: nn.Module, images: int, batch_size: int) -> None:
    """One image alone has no variance for (B, F), and torch would fail at the end of the epoch."""
    last = images % batch_size or batch_size
    if last == 1 and any(isinstance(m, nn.BatchNorm1d) for m in model.modules()):
        raise ConfigError(
            f"batch_size = {batch_size}: the last batch of {images} images has one image, and "
            f"batch norm needs two; use batch_size={batch_size + 1}"
        )


@contextmanager
def init_stream(seed: int, part: int) -> Iterator[None]:
    """torch's global CPU generator on the `init` stream: weights are drawn there, the same for
    every device."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(world.number(seed, "init", part))
        yield


def apart(cfg: DictConfig, group: str) -> tuple[DictConfig, dict[str, Any]]:
    """A group's node without the keys in it that trainlab itself owns, and those."""
    node = OmegaConf.to_container(cfg[group])
    own = {key: node.pop(key) for key in list(node) if f"{group}.{key}" in spine.SPINE}
    return OmegaConf.create({group: node})[group], own


def prepare(cfg: DictConfig, door: Callable) -> Bench:
    """Join the world, load the data, fit the preprocessing on the training split only."""
    device = world.join(cfg.device, cfg.threads)
    splits = loaded(door, *apart(cfg, "data"))
    fitted = [each.to(device) for each in fit(door, *apart(cfg, "preprocess"), splits)]
    return Bench(cfg, door, device, splits.to(device), *fitted)


def train(
    cfg: DictConfig, directory: Path, door: Callable, choices: dict[str, Any]
) -> dict[str, Any]:
    """One run from the recipe to the closing table. Returns what summary.json holds."""
    digest = spine.digest(OmegaConf.to_container(cfg, resolve=True))
    with ExitStack() as stack:
        status = stack.enter_context(rundir.held(directory, digest))
        stop = stack.enter_context(rundir.signals())
        show = Show(quiet=cfg.quiet)
        show.recipe(*words.recipe(cfg, choices))

        bench = prepare(cfg, door)
        trainer = bench.fresh()
        show.data_and_model(bench.splits, choices["preprocess"], trainer.model, bench.device)
        for notice in bench.splits.notices:
            show.note(notice)
        keeper = Keeper(directory, facts(bench), cfg.checkpoint.seconds, status)
        saved = None
        if cfg.resume is not None:
            saved, notes = keeper.find(trainer.steps, cfg.resume_allow)
            for note in notes:
                show.note(note)
        status.write("running")  # from here on this start is the run's
        durable.write(directory / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True).encode())
        bench.preprocess.keep(directory)
        verdicts = preflight(bench, directory, show)

        world.seed_everything(cfg.seed, "dropout")
        kept = keeper.take_up(saved, trainer) if saved else 0
        log = keeper.log = stack.enter_context(Log(directory, kept))
        if kept == 0:
            log.text("recipe", words.card(cfg, choices))
        watch = Watch(
            rows=partial(write_rows, bench, trainer, log, show),
            probe=probes(bench, log),
            save=keeper.save,
            after=partial(keeper.after, stop),
        )
        show.start(trainer.at, trainer.steps)
        stack.callback(show.stop)
        begun, at = time.monotonic(), trainer.at
        trainer.fit(cadences(cfg, trainer.batches.per_epoch), watch)
        show.stop()
        threads_hint(bench, show, (time.monotonic() - begun) / max(trainer.at - at, 1))

        summary = close(bench, trainer, log) | {
            "config_digest": digest,
            "verdicts": {v.name: v.status for v in verdicts},
            "seconds": keeper.elapsed(),
            "resumes": keeper.resumes,
            "directory": str(directory),
        }
        durable.write_json(directory / "summary.json", summary)
        status.write("finished")
    show.closing(summary["results"], summary["best_step"], verdicts, directory)
    return summary


def preflight(bench: Bench, directory: Path, show: Show) -> list[Any]:
    """Run the checks of `preflight`. Raises ConfigError when training cannot work."""
    nodes = bench.cfg.preflight.get("checks") or {}
    if not nodes:
        return []
    from trainlab.checks import run_checks  # a room: only for runs that ask for it

    begun = time.monotonic()
    verdicts = run_checks({name: bench.door(node) for name, node in nodes.items()}, bench.fresh)
    show.verdicts(verdicts, time.monotonic() - begun)
    durable.write_json(directory / "verdicts.json", [dataclasses.asdict(v) for v in verdicts])
    for verdict in verdicts:
        if verdict.stops or (verdict.status == "FAIL" and bench.cfg.preflight.on_fail == "stop"):
            raise ConfigError(
                f"preflight {verdict.name}: {verdict.saw}, expected {verdict.expected}; "
                f"{verdict.advice}"
            )
    return verdicts


def threads_hint(bench: Bench, show: Show, seconds: float) -> None:
    """Say where more threads would pay: steps over 2 ms are arithmetic rather than calls."""
    threads, cores = bench.cfg.threads, os.cpu_count() or 1
    if bench.device.type == "cpu" and threads < cores and seconds > 2e-3:
        show.note(
            f"threads = {threads}: a step took {seconds * 1e3:.1f} ms on {threads} of {cores} "
            f"cores; threads={cores} may be faster on an idle machine (and gives other bits)"
        )


def facts(bench: Bench) -> dict[str, Any]:
    """What a checkpoint holds beside the Trainer's state, so that nothing else is needed to use
    it."""
    return {
        "trainlab": __version__,
        "config": OmegaConf.to_container(bench.cfg, resolve=True),
        "data": bench.splits.digest(),
        "environment": world.environment(bench.device),
        "preprocess": bench.preprocess.told(),
        "shape": list(bench.shape),
        "classes": list(bench.splits.classes),
    }


def cadences(cfg: DictConfig, per_epoch: int) -> Every:
    """An integer is steps, `2ep` is epochs."""

    def steps(cadence: int | str | None) -> int:
        text = str(cadence or 0)
        return int(text[:-2]) * per_epoch if text.endswith("ep") else int(text)

    return Every(*(steps(cfg[name].every) for name in ("log", "evaluate", "probe", "checkpoint")))


def write_rows(
    bench: Bench, trainer: Trainer, log: Log, show: Show, step: int, values: dict[str, Tensor]
) -> None:
    """One row of figures to the log and the screen; dead units are counted whenever the validation
    split is seen."""
    row = {tag: float(value) for tag, value in values.items()}
    show.row(step, row)
    if "val/loss" in row and "activation" in bench.cfg.probe:
        from trainlab.probes.activation import dead

        row |= {
            f"activation_dead/{layer}": share
            for layer, share in dead(trainer.model, trainer.validation).items()
        }
    log.scalars(step, row)


def probes(
    bench: Bench, log: Log
) -> Callable[[Trainer, Tensor, Tensor], AbstractContextManager] | None:
    """What looks at a step from both sides, or None when nothing does."""
    asked = {name: bench.door(node) for name, node in bench.cfg.probe.items() if name != "every"}
    if not asked:
        return None
    from trainlab.taps import measure, watching

    @contextmanager
    def looking(trainer: Trainer, x: Tensor, y: Tensor):
        with watching(trainer.model, trainer.objective, x, y) as sight:
            yield
        scalars, histograms = measure(sight, asked)
        log.scalars(trainer.at, scalars)
        for tag, (counts, low, high) in histograms.items():
            log.histogram(trainer.at, tag, counts, low, high)

    return looking


def close(bench: Bench, trainer: Trainer, log: Log) -> dict[str, Any]:
    """The best weights on the three splits. The test split is seen here and nowhere else."""
    if trainer.best:
        trainer.model.load_state_dict(trainer.best)
    results = bench.scores(trainer)
    log.scalars(
        trainer.at,
        {
            f"best/{split}_{key}": v
            for split, values in results.items()
            for key, v in values.items()
        },
    )
    log.sync()
    return {
        "results": results,
        "best_step": trainer.best_at(),
        "steps": trainer.at,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "weights_sha256": checkpoint.digest(trainer.model.state_dict()),
        "environment": world.environment(bench.device),
    }
