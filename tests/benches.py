"""The data and the recipe of a command line, without a run."""

from omegaconf import OmegaConf

from trainlab.cli import compose
from trainlab.config.build import Door
from trainlab.experiment import phases


def bench_of(*overrides: str) -> phases.Bench:
    """Of two values for one key the later counts."""
    typed = ["device=cpu", "probe=none", "preflight=none", *overrides]
    typed = {line.partition("=")[0]: line for line in typed}
    with compose.hydra_session() as hydra:
        cfg = compose.check(hydra, list(typed.values())).cfg
    return phases.prepare(
        OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]), Door()
    )
