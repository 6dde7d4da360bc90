"""Load and evaluate a run that was trained before."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from trainlab.config.build import Door
from trainlab.data.preprocess import Affine
from trainlab.errors import CheckpointError, ConfigError
from trainlab.experiment.checkpointer import checkpoint_facts
from trainlab.experiment.phases import build_network, prepare
from trainlab.observe.console import Show
from trainlab.storage import restore


class Loaded(NamedTuple):
    """A trained network in evaluation mode, its fitted preprocessing, and the names of its
    classes."""

    model: nn.Module
    preprocess: Any  # Affine or Linear
    classes: tuple[str, ...]


def load(run: str | Path, trust: Sequence[str] = ()) -> Loaded:
    """The best weights of a run: `model(preprocess(x))` gives logits (B, K) for raw x. On the CPU.

    `trust` admits the user's packages that the run was trained with. Raises CheckpointError.
    """
    saved = _newest(Path(run))
    facts = saved.facts
    cfg, classes = OmegaConf.create(facts["config"]), tuple(facts["classes"])
    model = build_network(cfg, Door(trust), facts["shape"], len(classes))
    model.load_state_dict(_weights(saved))
    return Loaded(model.eval(), _fitted(Path(run), facts["preprocess"]), classes)


def evaluate(
    cfg: DictConfig, directory: Path, door: Callable, choices: dict[str, Any]
) -> dict[str, Any]:
    """`task=evaluate resume=DIR`: evaluate the best weights of a run on its three splits. Writes
    nothing."""
    if cfg.resume is None:
        raise ConfigError("task = evaluate: needs the folder of a run; give resume=DIR")
    saved = _newest(directory)
    bench = prepare(cfg, door)
    restore.require_same_recipe(checkpoint_facts(bench), saved.facts, cfg.resume_allow)
    trainer = bench.fresh()
    trainer.model.load_state_dict(_weights(saved))
    results = bench.scores(trainer)
    best = saved.facts["best_step"]
    Show(quiet=cfg.quiet).closing(results, trainer.facts, best, [], directory)
    return {"results": results, "best_step": best, "directory": str(directory)}


def _fitted(run: Path, entry: dict[str, Any]) -> Any:
    """The preprocessing from a checkpoint's entry: its numbers, or the name of the file with
    them."""
    if "file" in entry:
        from trainlab.data import preprocess_file

        state = preprocess_file.read(run, entry)
    else:
        state = {name: torch.tensor(values) for name, values in entry.items()}
    if "forward" not in state:
        return Affine(**state)
    from trainlab.data.whitening import restored

    return restored(state)


def _newest(run: Path) -> restore.Checkpoint:
    saved, wrong = restore.newest(run / "checkpoints")
    for text in wrong:
        warnings.warn(f"{run}: {text}; using the checkpoint before it", stacklevel=3)
    if saved is None:
        raise CheckpointError(
            f"run = {run}: no checkpoint found; train it, or give the folder of a trained run"
        )
    return saved


def _weights(saved: restore.Checkpoint) -> dict[str, torch.Tensor]:
    """The best weights, or the latest ones where no evaluation has chosen any."""
    if saved.best:
        return saved.best
    weights = {}
    for name, tensor in saved.tensors.items():
        if name.startswith("model."):
            weights[name.removeprefix("model.")] = tensor
    return weights
