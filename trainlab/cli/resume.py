"""Which run to go on with, and what was typed for it; read by starts with `resume=` only."""

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
    """Those that the run `where` was started with, and the typed ones over them."""
    directory = Path(where.strip("'\"")).expanduser()
    first, *resumes = run_folder.starts(directory)
    if not (first / "overrides.yaml").is_file():
        here = sorted((path.parent for path in runs.glob("*/.hydra")), key=os.path.getmtime)
        names = ", ".join(map(str, here[:-4:-1])) or f"none in {runs}"
        raise errors.CheckpointError(f"resume = {where}: no such run; runs here: {names}")
    gone = {arg.partition("=")[0] for arg in typed} | {"trust", "resume", "quiet"}
    # hydra.yaml is whole when overrides.yaml is there; that one itself a kill may have cut
    last = [first, *(each for each in resumes if (each / "overrides.yaml").exists())][-1]
    told = (yaml.safe_load((each / "hydra.yaml").read_text()) for each in (first, last))
    origin, newest = (list(map(str, each["hydra"]["overrides"]["task"])) for each in told)
    saved = [arg for arg in newest if not arg.startswith("task=")]  # it may have been evaluated
    saved += [arg for arg in origin if arg.startswith("task=")]
    return [arg for arg in saved if arg.partition("=")[0] not in gone] + list(typed)


def unfinished(cfg: Any, runs: Path) -> str | None:
    """The newest run of this recipe among `runs` that has not ended."""
    digest = keys.digest(OmegaConf.to_container(cfg, resolve=True))
    for path in sorted(runs.glob("*/status.json"), key=os.path.getmtime, reverse=True):
        status = run_folder.read_status(path.parent)
        if status.get("state") != "finished" and status.get("config_digest") == digest:
            return str(path.parent)
    return None
