"""The run that `resume=` names, and the overrides it was started with. Imported only with
`resume=`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from trainlab import errors
from trainlab.config import keys
from trainlab.storage import run_folder


def overrides(typed: Sequence[str], where: str, runs: Path) -> list[str]:
    """The overrides that the run `where` was started with, updated by those typed now."""
    directory = Path(where.strip("'\"")).expanduser()
    first, *resumes = run_folder.start_folders(directory)
    if not (first / "overrides.yaml").is_file():
        here = sorted((path.parent for path in runs.glob("*/.hydra")), key=os.path.getmtime)
        names = ", ".join(map(str, here[:-4:-1])) or f"none in {runs}"
        raise errors.CheckpointError(f"resume = {where}: no such run; the newest runs are: {names}")
    replaced = {arg.partition("=")[0] for arg in typed} | {"trust", "resume", "quiet"}
    # hydra.yaml is complete once overrides.yaml exists, which a kill may have cut off itself
    last = [first, *(start for start in resumes if (start / "overrides.yaml").exists())][-1]
    configs = (yaml.safe_load((start / "hydra.yaml").read_text()) for start in (first, last))
    origin, newest = (list(map(str, config["hydra"]["overrides"]["task"])) for config in configs)
    # the newest start may have been task=evaluate, so the task is the first start's
    saved = [arg for arg in newest if not arg.startswith("task=")]
    saved += [arg for arg in origin if arg.startswith("task=")]
    return [arg for arg in saved if arg.partition("=")[0] not in replaced] + list(typed)


def unfinished(cfg: Any, runs: Path) -> str | None:
    """The newest run with this recipe in `runs` that has not finished; None where there is none."""
    digest = keys.digest(OmegaConf.to_container(cfg, resolve=True))
    for path in sorted(runs.glob("*/status.json"), key=os.path.getmtime, reverse=True):
        status = run_folder.read_status(path.parent)
        if status.get("state") != "finished" and status.get("config_digest") == digest:
            return str(path.parent)
    return None
