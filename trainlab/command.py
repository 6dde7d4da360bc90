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
from hydra.core.override_parser.types import Glob, IntervalSweep, Override
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
        if dashed := re.fullmatch(r"--?([a-z_][\w.]*)=(.*)", arg):
            if not any(f"--{dashed[1]}" == f for f in parser._option_string_actions):
                raise ConfigError(f"{arg}: no dashes; use {dashed[1]}={dashed[2]}")
    args = parser.parse_intermixed_args(argv)
    for flag in ("config_name", "config_path", "experimental_rerun"):
        if getattr(args, flag) is not None and (flag, getattr(args, flag)) != ("config_name", "config"):
            raise ConfigError(
                f"--{flag.replace('_', '-')} {getattr(args, flag)}: there is one config; "
                "choose with GROUP=WORD, or add words of your own with --config-dir DIR"
            )
    if args.config_dir is not None and not os.path.isdir(args.config_dir):
        raise ConfigError(f"--config-dir {args.config_dir}: no such folder")
    return args


@contextmanager
def loaded(config_dir: str | None = None) -> Iterator[Hydra]:
    """Hydra with our words, the spine and the user's own folder; what was there before comes back."""
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


def check(hydra: Hydra, args: Sequence[str], multirun: bool = False, more: str | None = None) -> Asked:
    """Parse, compose, check. Raises ConfigError with one line that says what to type."""
    own = Path(more) if more else None
    known = words.groups(own)
    overrides = [parse(arg, known, multirun) for arg in _joined(args)]
    names = [o.key_or_group for o in overrides]
    for name in names:
        if names.count(name) > 1:
            both = " and ".join(o.get_value_string() for o in overrides if o.key_or_group == name)
            raise ConfigError(f"{name} is given twice ({both}); keep one")
    choices = _choices(overrides, known, own)
    if math.prod(len(_values(o)) for o in overrides) > MOST_JOBS:
        raise ConfigError(f"-m: more than {MOST_JOBS} jobs; sweep over fewer values")
    first = [o.input_line if not o.is_sweep_override() else _first(o, known) for o in overrides]
    try:
        cfg = compose(hydra, first)
    except ConfigError as error:
        raise _explained(error, hydra, overrides, first, known, own) from error
    if cfg.hydra.get("callbacks"):
        raise ConfigError("hydra.callbacks: not run by trainlab; remove them")
    ours = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
    settled(ours, cfg.hydra.runtime.choices, names, own)
    for o in overrides:
        for value in _values(o) if not o.is_hydra_override() and o.key_or_group not in known else []:
            for key, leaf in _leaves(o.key_or_group, value).items():
                if not (isinstance(leaf, str) and "${" in leaf):
                    spine.check(key, leaf, _literal(cfg.hydra.runtime.choices, key, own))
                for word in choices.get(key.split(".")[0], []):
                    if key not in spine.SPINE and key not in words.literals(key.split(".")[0], word, own):
                        raise _unknown(key, leaf, spine.flat(spine.defaults()), known, word, own)
    return Asked(overrides, first, cfg, hydra)


def _joined(args: Sequence[str]) -> list[str]:
    """Refuse `epochs = 3` and `epochs:3`, which argparse lets through."""
    for position, arg in enumerate(args):
        if arg.endswith("=") and position + 1 < len(args) and "=" not in args[position + 1]:
            raise ConfigError(f'{arg} {args[position + 1]}: no blanks around "="; use {arg}{args[position + 1]}')
        if arg == "=" or arg.startswith("="):
            text = " ".join(args[max(position - 1, 0) : position + 2])
            raise ConfigError(f'{text}: no blanks around "="; use {text.replace(" ", "")}')
        if "=" not in arg and not arg.startswith("~"):
            if position + 1 < len(args) and args[position + 1].startswith("="):
                continue
            if pair := re.fullmatch(r"([\w.]+):(.*)", arg):
                raise ConfigError(f'{arg}: use "=": {pair[1]}={pair[2].strip()}')
            raise ConfigError(f"{arg}: a setting is key=value, such as optim.lr=0.01; see --help")
    return list(args)


def parse(arg: str, known: dict[str, list[str]], multirun: bool) -> Override:
    """One argument as Hydra reads it; paths are quoted for the user, `+` and `~` refused."""
    key, _, text = arg.partition("=")
    bare = key.lstrip("+~")
    if key.startswith("~"):
        raise ConfigError(f"{arg}: a key cannot be removed; set it, as in {bare}=VALUE")
    if key.startswith("+") and not bare.startswith(("hydra.", "hydra/")):
        near = bare if bare in (*known, *spine.KEYS) else words.closest(bare, (*known, *spine.KEYS))
        hint = f"{near} is there already; use {near}={text}" if near else "there are no keys but ours"
        raise ConfigError(f"{key} = {text}: keys cannot be added; {hint}")
    if text == "" and not bare.startswith("hydra."):
        rule = spine.declared(bare)
        raise ConfigError(f"{key} = : is empty; " + (f"must be {rule.allowed()}" if rule else f"use {key}=VALUE"))
    plain = text[:1] in "'\"" or text in ("null", "auto")
    parser = OverridesParser.create()
    if bare in PATHS and not plain and not (multirun and re.fullmatch(r"[\w./,:-]*", text)):
        path = os.path.expanduser(text)
        arg = f"{key}='" + path.replace("\\", "\\\\").replace("'", "\\'") + "'"
    try:
        override = parser.parse_override(arg)
    except HydraException as error:
        quoted = text.replace("\\", "\\\\").replace('"', '\\"')
        raise ConfigError(f"{key} = {text}: cannot be read; quote it: '{key}=\"{quoted}\"'") from error
    if override.package is not None:
        raise ConfigError(f"{key} = {text}: no packages here; use {override.key_or_group}={text}")
    if override.is_sweep_override() and not multirun:
        raise ConfigError(f"{key} = {text}: {_not_a_sweep(bare, text)}")
    if multirun and bare == "resume":
        raise ConfigError(f"resume = {text}: not with -m; go on with each run by itself, or start the sweep again")
    return override


def _not_a_sweep(key: str, text: str) -> str:
    rule = spine.declared(key)
    if rule and rule.each:
        return f"a list is {key}=[{text}]; several runs need -m"
    if re.fullmatch(r"\d+,\d+", text) and rule and rule.kind is float:
        return f'the decimal point is "."; use {key}={text.replace(",", ".")}, or -m for several runs'
    return "one value, or -m for several runs"


def _values(o: Override) -> list[Any]:
    """Every value an override takes, over the whole sweep."""
    if not o.is_sweep_override():
        return [o.value()]
    if isinstance(o._value, Glob):
        return [o._value]
    if isinstance(o._value, IntervalSweep):
        return [o._value.start, o._value.end]
    if o.is_range_sweep() and len(o._value.range()) > MOST_JOBS:
        raise ConfigError(f"{o.key_or_group} = {o.get_value_string()}: more than {MOST_JOBS} values")
    return [Override._convert_value(value) for value in o.sweep_iterator()]


def _first(o: Override, known: dict[str, list[str]]) -> str:
    if isinstance(o._value, Glob):
        return f"{o.key_or_group}={o._value.filter(known[o.key_or_group])[0]}"
    if isinstance(o._value, IntervalSweep):
        return f"{o.key_or_group}={o._value.start}"
    return f"{o.key_or_group}={next(iter(o.sweep_string_iterator()))}"


def _choices(overrides: list[Override], known: dict[str, list[str]], own: Path | None) -> dict[str, list[str]]:
    """Group -> the words asked for it; each must exist."""
    asked: dict[str, list[str]] = {}
    for o in overrides:
        group = o.key_or_group
        if group not in known:
            continue
        options = known[group]
        for value in _values(o):
            if isinstance(value, Glob):
                value = value.filter(options) or [str(value.include)]
            if value is None and words.usual().get(group) is None:
                continue
            for word in value if isinstance(value, list) else [value]:
                if not isinstance(word, str) or word not in options:
                    near = words.closest(str(word), options)
                    hint = f"did you mean {near}?" if near else f"the default is {words.usual().get(group)}"
                    raise ConfigError(f"{group} = {spine.plain(word)}: not one of {', '.join(options)}; {hint}")
                asked.setdefault(group, []).append(word)
    return asked


def compose(hydra: Hydra, lines: list[str]) -> DictConfig:
    """The config of one job. Whatever Hydra refuses becomes a ConfigError of one line."""
    try:
        return hydra.compose_config("config", lines, RunMode.RUN)
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark
        raise ConfigError(f"{at.name} line {at.line + 1}: {error.problem}") from error
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(str(error).strip().splitlines()[0]) from error


def settled(cfg: DictConfig, choices: Any, typed: Sequence[str], own: Path | None = None) -> None:
    """Check every leaf of a composed config (without Hydra's part), from files or typed."""
    try:
        plain = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        text = str(error).splitlines()[0]
        raise ConfigError(f"{getattr(error, 'full_key', None) or 'config'}: {text}") from error
    for key in ONLY_TYPED:
        if plain[key] and key not in typed:
            raise ConfigError(f"{key} = {spine.plain(plain[key])}: only from the command line, not from a file")
    sections = {key.rsplit(".", 1)[0] for key in spine.SPINE if "." in key}
    for key, value in spine.flat(plain).items():
        if key in sections:
            raise ConfigError(f"{key} = {spine.plain(value)}: has keys of its own; {_inside(key, spine.KEYS)}")
        spine.check(key, value, _literal(choices, key, own))
    Door(plain["trust"]).inspect(plain, "")


def _literal(choices: Any, key: str, own: Path | None) -> Any:
    """The value of a key in its word's file, for keys that have no rule."""
    group = key.split(".")[0]
    if spine.declared(key) or not isinstance(choices.get(group), str):
        return None
    return words.literals(group, choices[group], own).get(key)


def _leaves(key: str, value: Any) -> dict[str, Any]:
    return spine.flat({key: value})


def _inside(key: str, known: Any) -> str:
    return "there are " + ", ".join(sorted(k for k in known if k.startswith(f"{key}.")))


def _explained(
    error: ConfigError, hydra: Hydra, overrides: list[Override], first: list[str],
    known: dict[str, list[str]], own: Path | None,
) -> ConfigError:  # fmt: skip
    """Say which typed key is unknown, in our words. Slower than the good path: composes again."""
    chosen = [line for o, line in zip(overrides, first, strict=True) if o.key_or_group in known]
    for o in overrides:
        if o.key_or_group.startswith("hydra/"):
            options = hydra.config_loader.get_group_options(o.key_or_group)
            if str(o.value()) not in options:
                near = words.closest(str(o.value()), options)
                hint = f"did you mean {near}?" if near else "its package may not be installed"
                return ConfigError(f"{o.key_or_group} = {o.value()}: not one of {', '.join(options)}; {hint}")
    try:
        cfg = compose(hydra, chosen)
    except ConfigError as other:
        return other
    leaves = spine.flat(OmegaConf.to_container(cfg))
    for o in overrides:
        if o.key_or_group in known or o.is_add() or o.is_force_add():
            continue
        for key, value in _leaves(o.key_or_group, _values(o)[0]).items():
            if any(leaf.startswith(f"{key}.") for leaf in leaves):
                return ConfigError(f"{key} = {spine.plain(value)}: has keys of its own; {_inside(key, leaves)}")
            if key not in leaves:
                word = cfg.hydra.runtime.choices.get(key.split(".")[0])
                return _unknown(key, value, leaves, known, word, own)
    return error


def _unknown(
    key: str, value: Any, leaves: dict[str, Any], known: dict[str, list[str]], word: Any, own: Path | None
) -> ConfigError:
    group, _, rest = key.partition(".")
    text = f"{key} = {spine.plain(value)}"
    if group in known and isinstance(word, str):
        owners = [w for w in known[group] if key in words.literals(group, w, own)]
        if owners:
            return ConfigError(
                f"{text}: {group}={word} has no {rest} ({', '.join(owners)}: yes); "
                f"use {group}={owners[0]}, or drop it"
            )
    options = [k for k in leaves if not k.endswith("_")] if not key.startswith("hydra.") else leaves
    near = words.closest(key, [*options, *known])
    hint = f"did you mean {near}={spine.plain(value)}?" if near else "see --help"
    return ConfigError(f"{text}: no such key; {hint}")
