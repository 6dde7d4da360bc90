"""Spaces from the words of a command line."""

from hydra.core.override_parser.overrides_parser import OverridesParser

from trainlab import command
from trainlab.sweep.space import Space


def space_of(*lines: str) -> Space:
    with command.loaded() as hydra:
        parser = OverridesParser.create(config_loader=hydra.config_loader)
        return Space.of(parser.parse_overrides(list(lines)))
