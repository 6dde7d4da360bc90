"""trainlab: train a network, watch it, judge it. From the command line and from Python."""

import sys
from typing import Any

__version__ = "0.1.0"
sys.path.append(f"{__path__[0]}/_plugins")  # where Hydra looks for launchers


def run(*overrides: str) -> dict[str, Any]:
    """One run, as `python -m trainlab OVERRIDES` does it; returns what its summary.json holds.

    `trainlab.run("activation=elu", "optim=adam")`. Seeds the global generators and sets torch's
    threads, as the command does. Raises TrainlabError where that would print a line and exit.
    """
    from trainlab.__main__ import run

    return run(*overrides)


def load(run: Any) -> Any:
    """The best model of a finished run, its preprocessing and its classes."""
    from trainlab.experiment.evaluate import load

    return load(run)


def check(model: Any, loss: Any, optimizer: Any, batch: Any, step: Any = None) -> Any:
    """The preflight checks on a model of your own: list of Verdict. batch is (x, y); model and
    optimizer are left as they were."""
    from trainlab.checks.api import check

    return check(model, loss, optimizer, batch, step)


def examine(run: Any) -> Any:
    """What went wrong while a run trained, worst first: list of Finding. `run` is its folder."""
    from trainlab.doctor.examine import examine

    return examine(run)
