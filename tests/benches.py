"""The data and the recipe of a command line, without a run."""

from omegaconf import OmegaConf

from trainlab import command, story
from trainlab.build import Door


def bench_of(*overrides: str) -> story.Bench:
    """Of two values for one key the later counts."""
    typed = ["device=cpu", "probe=none", "preflight=none", *overrides]
    typed = {line.partition("=")[0]: line for line in typed}
    with command.loaded() as hydra:
        cfg = command.check(hydra, list(typed.values())).cfg
    return story.prepare(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]), Door())
