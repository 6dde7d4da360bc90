"""What goes wrong in one job of a sweep: a module of a user's own, named by trust=[planted]."""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import torch

from trainlab.experiment import phases


def nonfinite(model):
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)


KINDS = {
    "exception": lambda model: 1 / 0,
    "exit": lambda model: sys.exit(3),
    "nonfinite": nonfinite,
    "kill": lambda model: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda model: ctypes.string_at(0),
    "hang": lambda model: time.sleep(3600),
}
WORDS = {
    "init": "_target_: planted.init\n_partial_: true\nplace: 0\nfails: []\n",
    "task": "_target_: planted.train\n_partial_: true\nended: ended.txt\n",
}


def words(folder: Path) -> list[str]:
    """What to type for init=planted and task=planted."""
    for group, text in WORDS.items():
        (folder / "conf" / group).mkdir(parents=True)
        (folder / "conf" / group / "planted.yaml").write_text(text)
    return ["--config-dir", str(folder / "conf"), "trust=[planted]"]


def init(model, x, prior=None, place=0, fails=()):
    """torch's own start; fails=[3:exit] and place=3 is a failure."""
    for fail in fails:
        at, _, kind = fail.partition(":")
        if place == float(at):
            KINDS[kind](model)


def train(cfg, directory, door, choices, ended):
    """As task=train; then a line that says so."""
    summary = phases.train(cfg, directory, door, choices)
    with open(directory.parent / ended, "a") as file:
        file.write(f"{directory.name}\n")
    return summary
