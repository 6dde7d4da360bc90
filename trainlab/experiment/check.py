"""Check a recipe without training it. Named by conf/task/."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trainlab.config import keys, words
from trainlab.errors import ConfigError
from trainlab.experiment.phases import preflight, prepare
from trainlab.observe.console import Show
from trainlab.storage import atomic, run_folder


def check(
    cfg: DictConfig, directory: Path, door: Callable, choices: dict[str, Any]
) -> dict[str, Any]:
    """`task=check`: print recipe, data, model and preflight verdicts, and stop before training.

    Writes verdicts.json, config.yaml, status.json. Raises ConfigError where training cannot work.
    """
    if cfg.resume is not None:
        raise ConfigError("task = check: starts from step 0; remove resume")
    with ExitStack() as stack:
        status = stack.enter_context(run_folder.locked(directory, keys.digest(keys.values(cfg))))
        show = Show(quiet=cfg.quiet)
        show.recipe(*words.recipe(cfg, choices))
        bench = prepare(cfg, door)
        model = bench.fresh().model
        show.data_and_model(bench.splits, choices["preprocess"], model, bench.device)
        show.notes(bench.notices())
        status.write("running")
        atomic.write(directory / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True).encode())
        verdicts = preflight(bench, directory, show)
        status.write("finished")
    show.note(f"files   {directory}")
    statuses = {v.name: v.status for v in verdicts}
    return {"verdicts": statuses, "directory": str(directory)}
