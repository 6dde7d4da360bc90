"""The config of each job of a sweep, composed once for each choice of words."""

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from trainlab.config import keys


class Jobs:
    """The jobs of a sweep, numbered from `begin` on: `plain(place)` is what one is asked for, key
    by key, without composing it (under 1 ms), `config(place)` what `load_sweep_config` gives for
    it: jobs that differ in values only are copies of one config with these values in place."""

    def __init__(self, context: Any, master: DictConfig, jobs: Sequence[Sequence[str]], begin: int):
        self.loader, self.master, self.begin = context.config_loader, master, begin
        parser = OverridesParser.create(config_loader=self.loader)
        self.parse = cache(lambda line: parser.parse_overrides([line])[0])
        self.is_word = cache(lambda key: self.loader.get_group_options(key) != [])
        self.composed = cache(lambda words: self.loader.load_sweep_config(master, list(words)))
        self.base = cache(self._base)
        self.parsed = [[self.parse(line) for line in lines] for lines in jobs]
        self.typed = OmegaConf.to_container(master.hydra.overrides.hydra)

    def plain(self, place: int) -> dict[str, Any]:
        """{"optim.lr": 0.1, ...} of a job, without Hydra's part."""
        words, values = self._divided(place)
        if (flat := self.base(words)) is None:  # a value typed may be another's too
            return keys.flat(keys.values(_ours(self.config(place))))
        typed = {o.key_or_group: o.value() for o in values if not o.is_hydra_override()}
        return flat | keys.flat(typed)

    def _base(self, words: tuple[str, ...]) -> dict[str, Any] | None:
        """As composed from the words alone; None where a value follows another by ${...}."""
        flat = keys.flat(OmegaConf.to_container(_ours(self.composed(words))))
        return None if any("${" in str(value) for value in flat.values()) else flat

    def config(self, place: int) -> DictConfig:
        words, values = self._divided(place)
        ours = [o for o in self.parsed[place] if not o.is_hydra_override()]
        hydras = [o.input_line for o in self.parsed[place] if o.is_hydra_override()]
        cfg = copy.deepcopy(self.composed(words))
        with read_write(cfg), open_dict(cfg):
            for o in values:
                OmegaConf.update(cfg, o.key_or_group, o.value())
            cfg.hydra.overrides.task = [o.input_line for o in ours]
            cfg.hydra.overrides.hydra = [*self.typed, *hydras]
            cfg.hydra.job.override_dirname = dirname(ours, cfg.hydra.job.config.override_dirname)
            cfg.hydra.job.id = cfg.hydra.job.num = self.begin + place
        OmegaConf.copy_cache(from_config=self.master, to_config=cfg)
        return cfg

    def _divided(self, place: int) -> tuple[tuple[str, ...], list[Any]]:
        """The lines that choose words, and the overrides that set values."""
        parsed = self.parsed[place]
        words = tuple(o.input_line for o in parsed if self.is_word(o.key_or_group))
        return words, [o for o in parsed if not self.is_word(o.key_or_group)]


def _ours(cfg: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])


def dirname(overrides: Sequence[Any], rule: DictConfig) -> str:
    """As Hydra names a job's folder."""
    lines = sorted(o.input_line for o in overrides if o.key_or_group not in rule.exclude_keys)
    return rule.item_sep.join(lines).replace("=", rule.kv_sep)
