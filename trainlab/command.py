"""From the words typed to one checked config: parse, did-you-mean, compose once, check every leaf.

Everything wrong ends here, as a ConfigError, before a folder is made or torch is imported.
"""

import argparse
import dataclasses
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, Transformer
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trainlab import spine, words
from trainlab.build import Door
from trainlab.errors import ConfigError

PATHS = "data.root", "resume", "hydra.run.dir", "hydra.sweep.dir"  # quoted for the user
ONLY_TYPED = "trust", "resume"
MOST_JOBS = 10_000


@dataclasses.dataclass
class Asked:
    """What was asked for: the overrides as Hydra reads them, those of the first job, its config."""

    overrides: list[Override]
    first: list[str]
    cfg: DictConfig
    hydra: Hydra

    def typed(self, key: str) -> Any:
        """The value of a key on the command line, None if it is not there."""
        return next((o.value() for o in self.overrides if o.key_or_group == key), None)


def flags(argv: Sequence[str]) -> argparse.Namespace:
    """Hydra's own flags, and the overrides between them in any order."""
    parser = get_args_parser()

    def refuse(message: str) -> None:
        raise ConfigError(f"{message}; see --help")

    parser.error = refuse
    for arg in argv:
        dashed = re.fullmatch(r"--?([a-z_][\w.]*)(=.*)?", arg)
        if dashed and arg.partition("=")[0] not in parser._option_string_actions:
            raise ConfigError(f"{arg}: no dashes; use {dashed[1]}{dashed[2] or '=VALUE'}")
    args = parser.parse_intermixed_args(argv)
    if "hydra.mode=MULTIRUN" in args.overrides:
        args.multirun = True
        args.overrides.remove("hydra.mode=MULTIRUN")
    for flag in ("config_name", "config_path", "experimental_rerun"):
        if getattr(args, flag) not in (None, "config"):
            raise ConfigError(
                f"--{flag.replace('_', '-')} {getattr(args, flag)}: there is one config; "
                "choose with GROUP=WORD, or add words of your own with --config-dir DIR"
            )
    if args.config_dir is not None and not os.path.isdir(args.config_dir):
        raise ConfigError(f"--config-dir {args.config_dir}: no such folder")
    return args


@contextmanager
def loaded(config_dir: str | None = None) -> Iterator[Hydra]:
    """Hydra with our words, the spine and the user's own; what was there before comes back."""
    ConfigStore.instance().store("spine", spine.defaults())
    version.setbase("1.3")
    search = create_config_search_path(str(words.conf()))
    if config_dir is not None:
        search.prepend("command-line", f"file://{os.path.abspath(config_dir)}")
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield Hydra.create_main_hydra2("trainlab", search)
    finally:
        GlobalHydra.instance().hydra = before


def check(
    hydra: Hydra, args: Sequence[str], multirun: bool = False, more: str | None = None
) -> Asked:
    """Parse, compose, check. Raises ConfigError with one line that says what to type."""
    own = Path(more) if more else None
    known = words.groups(own)
    overrides = [parse(arg, known, multirun) for arg in _joined(args)]
    names = [o.key_or_group for o in overrides]
    for name in names:
        if names.count(name) > 1:
            both = " and ".join(o.get_value_string() for o in overrides if o.key_or_group == name)
            raise ConfigError(f"{name} is given twice ({both}); keep one")
    for o in overrides:
        if o.key_or_group.startswith("hydra/"):
            options = hydra.config_loader.get_group_options(o.key_or_group)
            if o.value() not in options:
                raise words.no_word(o.key_or_group, o.value(), options)
    choices = _choices(overrides, known)
    if math.prod(len(_values(o)) for o in overrides) > MOST_JOBS:
        raise ConfigError(f"-m: more than {MOST_JOBS} jobs; sweep over fewer values")
    _typed(overrides, choices, known, own)
    first = [o.input_line if not o.is_sweep_override() else _first(o, known) for o in overrides]
    cfg = compose(hydra, first)
    if cfg.hydra.get("callbacks"):
        raise ConfigError("hydra.callbacks: not run by trainlab; remove them")
    ours = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
    settled(ours, cfg.hydra.runtime.choices, [o.key_or_group for o in overrides], own)
    return Asked(overrides, first, cfg, hydra)


def _typed(
    overrides: list[Override],
    choices: dict[str, list[str]],
    known: dict[str, list[str]],
    own: Path | None,
) -> None:
    """Check every value typed, over the whole sweep, against the words' files; composes nothing."""
    usual = {} if "experiment" in choices else words.usual()  # a recipe may choose other words
    for o in overrides:
        if o.is_hydra_override() or o.key_or_group in known:
            continue
        leaves = [spine.flat({o.key_or_group: value}) for value in _values(o)]
        for key, value in (pair for leaf in leaves for pair in leaf.items()):
            group = key.split(".")[0]
            literal = None
            if key not in spine.SPINE:
                if group not in known:
                    raise words.unknown(key, value, spine.KEYS, known, None, own)
                chosen = choices.get(group) or usual.get(group) or []
                several = isinstance(words.usual().get(group), list)
                for word in [chosen] if isinstance(chosen, str) else chosen:
                    own_keys = words.literals(group, word, own)
                    if key in own_keys:
                        literal = own_keys[key]
                    elif not several:
                        raise words.unknown(key, value, own_keys | spine.SPINE, known, word, own)
            if not (isinstance(value, str) and "${" in value):  # settled sees it resolved
                spine.check(key, value, literal)


def _joined(args: Sequence[str]) -> list[str]:
    """Refuse `epochs = 3` and `epochs:3`, which argparse lets through."""
    for position, arg in enumerate(args):
        after = [*args[position + 1 : position + 3], "", ""]
        if arg.endswith("=") and after[0] and "=" not in after[0]:
            raise ConfigError(f'{arg} {after[0]}: no blanks around "="; use {arg}{after[0]}')
        if "=" not in arg and after[0].startswith("="):
            text = f"{arg} {after[0]}" + (f" {after[1]}" if after[0] == "=" else "")
            raise ConfigError(f'{text}: no blanks around "="; use {text.replace(" ", "")}')
        if pair := re.fullmatch(r"([\w.]+):([^=]*)", arg):
            raise ConfigError(f'{arg}: use "=": {pair[1]}={pair[2].strip()}')
        if "=" not in arg.lstrip("=") and not arg.startswith("~"):
            raise ConfigError(f"{arg}: a setting is key=value, such as optim.lr=0.01; see --help")
    return list(args)


def parse(arg: str, known: dict[str, list[str]], multirun: bool) -> Override:
    """One argument as Hydra reads it; paths are quoted for the user, `+` and `~` refused."""
    key, _, text = arg.partition("=")
    bare = key.lstrip("+~")
    if key.startswith("~"):
        raise ConfigError(f"{arg}: a key cannot be removed; set it, as in {bare}=VALUE")
    if key.startswith("+") and not bare.startswith(("hydra.", "hydra/")):
        near = words.closest(bare, (*known, *spine.KEYS))
        hint = f"did you mean {near}={text}?" if near else "see --help"
        raise ConfigError(f"{key} = {text}: keys cannot be added; {hint}")
    if text == "" and not bare.startswith("hydra."):
        rule = spine.declared(bare)
        must = f"must be {rule.allowed()}" if rule else f"use {key}=VALUE"
        raise ConfigError(f"{key} is empty: {must}; see --help")
    plain = text[:1] in "'\"" or text in ("null", "auto")
    if bare in PATHS and not plain and not (multirun and re.fullmatch(r"[\w./,:-]*", text)):
        path = os.path.expanduser(text)
        arg = f"{key}='" + path.replace("\\", "\\\\").replace("'", "\\'") + "'"
    try:
        override = OverridesParser.create().parse_override(arg)
    except HydraException as error:
        quoted = text.replace("\\", "\\\\").replace('"', '\\"')
        raise ConfigError(
            f"{key} = {text}: cannot be read; quote it: '{key}=\"{quoted}\"'"
        ) from error
    if override.package is not None:
        raise ConfigError(f"{key} = {text}: no packages here; use {override.key_or_group}={text}")
    if override.is_sweep_override() and not multirun:
        raise ConfigError(f"{key} = {text}: {_not_a_sweep(bare, text)}")
    if multirun and bare == "resume":
        raise ConfigError(
            f"resume = {text}: not with -m; go on with each run by itself, or start the sweep again"
        )
    return override


def _not_a_sweep(key: str, text: str) -> str:
    rule = spine.declared(key)
    if rule and rule.each:
        return f"a list is {key}=[{text}]; several runs need -m"
    if re.fullmatch(r"\d+,\d+", text) and rule and rule.kind is float:
        return f'the decimal point is "."; use {key}={text.replace(",", ".")} (several runs: -m)'
    return "one value, or -m for several runs"


def _values(o: Override) -> list[Any]:
    """Every value an override takes, over the whole sweep."""
    if not o.is_sweep_override():
        return [o.value()]
    if isinstance(o._value, Glob):
        return [o._value]
    if isinstance(o._value, IntervalSweep):
        text = f"{o.key_or_group} = {o.get_value_string()}"
        raise ConfigError(f"{text}: has no end; list the values, as in {o.key_or_group}=1,2,3")
    if o.is_range_sweep() and len(o._value.range()) > MOST_JOBS:
        raise ConfigError(f"{o.input_line}: more than {MOST_JOBS} values")
    values = [Override._convert_value(value) for value in o.sweep_iterator(Transformer.identity)]
    for value in values:
        if values.count(value) > 1 and len(values) < 1000:
            text = f"{o.key_or_group} = {o.get_value_string()}"
            raise ConfigError(f"{text}: {spine.plain(value)} is given twice; keep one")
    return values


def _first(o: Override, known: dict[str, list[str]]) -> str:
    if isinstance(o._value, Glob):
        return f"{o.key_or_group}={o._value.filter(known[o.key_or_group])[0]}"
    return f"{o.key_or_group}={next(iter(o.sweep_string_iterator()))}"


def _choices(overrides: list[Override], known: dict[str, list[str]]) -> dict[str, list[str]]:
    """Group -> the words asked for it; each must exist."""
    asked: dict[str, list[str]] = {}
    usual = words.usual()
    for o in overrides:
        group = o.key_or_group
        if group not in known:
            continue
        options, default = known[group], usual.get(group)
        for value in _values(o):
            text = f"{group} = {spine.plain(value)}"
            if value is None and default is None:
                raise ConfigError(f"{text}: is the default already; leave it out")
            if isinstance(value, list) and not isinstance(default, list):
                raise ConfigError(f"{text}: one word; use {group}={default or options[0]}")
            if isinstance(value, Glob):
                value = value.filter(options) or [text]
            for word in value if isinstance(value, list) else [value]:
                if word not in options:
                    raise words.no_word(group, word, options, default)
                asked.setdefault(group, []).append(word)
    return asked


def compose(hydra: Hydra, lines: list[str]) -> DictConfig:
    """The config of one job. Whatever Hydra refuses becomes a ConfigError of one line."""
    try:
        return hydra.compose_config("config", lines, RunMode.RUN)
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark
        raise ConfigError(f"{at.name} line {at.line + 1}: {error.problem}") from error
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        text = str(error).strip().splitlines()[0]
        if key := re.match(r"Could not override '(.*)'", text):
            raise ConfigError(f"{key[1]}: no such key; see --info config") from error
        raise ConfigError(f"{text}; see --help") from error


def settled(cfg: DictConfig, choices: Any, typed: Sequence[str], own: Path | None = None) -> None:
    """Check every leaf of a composed config (without Hydra's part), from files or typed."""
    try:
        plain = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        text = str(error).splitlines()[0]
        raise ConfigError(f"{getattr(error, 'full_key', None) or 'config'}: {text}") from error
    for key in ONLY_TYPED:
        if plain[key] and key not in typed:
            raise ConfigError(f"{key} = {spine.plain(plain[key])}: only from the command line")
    sections = {key.rsplit(".", 1)[0] for key in spine.SPINE if "." in key}
    known = words.groups(own)
    for key, value in spine.flat(plain).items():
        head, _, rest = key.partition(".")
        inside = head in sections and (not rest or rest.startswith("every."))
        if inside or (key not in spine.SPINE and head not in known):
            raise words.unknown(key, value, spine.flat(spine.defaults()), {}, None, own)
        spine.check(key, value)
    Door(plain["trust"]).inspect(plain, "")
    if plain["resume"] is None and choices["task"] == "evaluate":
        raise ConfigError("task = evaluate: needs a run that has ended; add resume=DIR")
