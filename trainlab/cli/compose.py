"""From the words typed to one checked config: parse, suggest, compose once, check every leaf.

Every mistake is a ConfigError here, before a folder is made or torch is imported.
"""

import argparse
import dataclasses
import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from hydra import version

# Private, and imported in this file only. Hydra's public doors are too narrow: hydra.main composes
# and runs at once, with no check between; hydra.compose and initialize know neither --info, --cfg
# and -m nor a folder to look into before ours; and run_job wants a Callbacks even for none.
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trainlab.config import keys, words
from trainlab.config.build import Door
from trainlab.errors import ConfigError
from trainlab.training.metrics import Facts, facts_of

PATHS = "data.root", "resume", "hydra.run.dir", "hydra.sweep.dir"  # quoted for the user
HYDRAS = "hydra.", "hydra/"
ONLY_TYPED = "trust", "resume"
Lists = dict[str, list[Any]]


@dataclasses.dataclass
class Request:
    """A parsed command line: the overrides as Hydra reads them, those of the first job, its
    config."""

    overrides: list[Override]
    first: list[str]
    cfg: DictConfig
    ours: DictConfig  # without Hydra's part
    hydra: Hydra
    others: list[DictConfig]  # of jobs with each other word, without Hydra's part
    place: str  # the key that names the folder

    def typed(self, key: str) -> Any:
        """The value of a key on the command line; None where it was not typed."""
        return next((o.value() for o in self.overrides if o.key_or_group == key), None)


def flags(argv: Sequence[str]) -> argparse.Namespace:
    """Hydra's own flags and the overrides, in any order."""
    parser = get_args_parser()

    def refuse(message: str) -> None:
        raise ConfigError(f"{message}; see --help")

    parser.error = refuse
    for arg in argv:
        dashed = re.fullmatch(r"--?([a-z_][\w.]*)(=.*)?", arg)
        if dashed and not _is_flag(parser, arg.partition("=")[0]):
            raise ConfigError(f"{arg}: no dashes; use {dashed[1]}{dashed[2] or '=VALUE'}")
    args = parser.parse_intermixed_args(argv)
    if "hydra.mode=MULTIRUN" in args.overrides:
        args.multirun = True
        args.overrides.remove("hydra.mode=MULTIRUN")
    for flag in ("config_name", "config_path", "experimental_rerun"):
        if (value := getattr(args, flag)) not in (None, "config"):
            text = f"--{flag.replace('_', '-')} {value}: there is one config"
            raise ConfigError(
                f"{text}; choose words with GROUP=WORD, or add your own with --config-dir DIR"
            )
    if args.config_dir is not None and not os.path.isdir(args.config_dir):
        raise ConfigError(f"--config-dir {args.config_dir}: no such folder")
    return args


def _is_flag(parser: argparse.ArgumentParser, word: str) -> bool:
    """Whether the parser has this option already: then it refuses a second one."""
    try:
        parser.add_argument(word)
    except argparse.ArgumentError:
        return True
    return False


@contextmanager
def hydra_session(config_dir: str | None = None) -> Iterator[Hydra]:
    """Hydra set up with the words of conf/, trainlab's own keys and the user's folder; Hydra's
    global state is restored at the end."""
    store, own = ConfigStore.instance(), Path(config_dir) if config_dir else None
    store.store("own_keys", keys.defaults())
    for name, checks in words.check_lists(own).items():
        store.store(name, checks)
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


def context_of(hydra: Hydra) -> HydraContext:
    """What Hydra's `run_job` and launchers want. There are no callbacks: configs that name some
    are refused."""
    return HydraContext(hydra.config_loader, Callbacks())


def check(
    hydra: Hydra, args: Sequence[str], multirun: bool = False, more: str | None = None
) -> Request:
    """Parse, compose, check. Raises ConfigError with one line that says what to type."""
    own = Path(more) if more else None
    known = words.groups(own)
    _refuse_blanks(args)
    if any(arg.startswith("search=") for arg in args):
        from trainlab.sweeps.search.axes import expanded

        args = expanded(args, multirun, own)
    args = with_monitored(args, known["metric"])
    parser = OverridesParser.create(hydra.config_loader)
    overrides = [parse(arg, parser, known, multirun) for arg in args]
    names = [o.key_or_group for o in overrides]
    for name in names:
        if names.count(name) > 1:
            both = " and ".join(o.get_value_string() for o in overrides if o.key_or_group == name)
            raise ConfigError(f"{name} is given twice ({both}); keep one")
    values = {o.key_or_group: [o.value()] for o in overrides}
    if multirun:
        from trainlab.sweeps.search import axes

        values |= axes.values(overrides, known)
    parts = {name: hydra.config_loader.get_group_options(name) for name in names if "/" in name}
    _check_typed(values, _chosen_words(values, known | parts), known, own)
    first = axes.first(overrides) if multirun else [o.input_line for o in overrides]
    lists = axes.others(overrides, first, known) if multirun else []
    others = [compose_and_check(hydra, lines, names, own)[1] for lines in lists]
    place = "hydra.sweep.dir" if multirun else "hydra.run.dir"
    return Request(
        overrides, first, *compose_and_check(hydra, first, names, own), hydra, others, place
    )


def with_monitored(args: Sequence[str], metrics: Sequence[str]) -> list[str]:
    """The same with the metric that `monitor=val/WORD` names, where `metric` is not typed."""
    typed = dict(arg.partition("=")[::2] for arg in args)
    name, usual = typed.get("monitor", "").rpartition("/")[2], words.default_words()["metric"]
    if "metric" in typed or name in usual or name not in metrics:
        return list(args)
    return [*args, f"metric=[{','.join([*usual, name])}]"]


def compose_and_check(hydra: Hydra, lines: list[str], names: list[str], own: Path | None) -> tuple:
    """The checked config of one job, and the same without Hydra's part."""
    cfg = compose(hydra, lines)
    if cfg.hydra.get("callbacks"):
        raise ConfigError("hydra.callbacks: not run by trainlab; remove them")
    ours = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
    check_composed(ours, cfg.hydra.runtime.choices, names, own)
    return cfg, ours


def _refuse_blanks(args: Sequence[str]) -> None:
    """Refuse `epochs = 3`, which argparse splits into three arguments."""
    for position, (arg, after) in enumerate(pairwise([*args, ""])):
        behind = arg.endswith("=") and after and "=" not in after
        if behind or ("=" not in arg and after.startswith("=")):
            parts = args[position : position + (3 if after == "=" else 2)]
            raise ConfigError(f'{" ".join(parts)}: no blanks around "="; use {"".join(parts)}')


def parse(arg: str, parser: OverridesParser, known: Iterable[str], multirun: bool) -> Override:
    """Parse one argument with Hydra's grammar; paths are quoted for the user, `+` and `~` are
    refused."""
    if not re.fullmatch(r"(?s)\+*hydra[./].*=.*|[^+~=][^=]*=.+", arg):
        raise _hints().malformed(arg, known)
    key, _, text = arg.partition("=")
    bare = key.lstrip("+")
    plain = text[:1] in "'\"" or text in ("null", "auto")
    if bare in PATHS and not plain and not (multirun and re.fullmatch(r"[\w./,:-]*", text)):
        arg = f"{key}={QuotedString(os.path.expanduser(text), Quote.single).with_quotes()}"
    try:
        (override,) = parser.parse_overrides([arg])
    except HydraException as error:
        quoted = QuotedString(text, Quote.double).with_quotes()
        raise ConfigError(f"{key} = {text}: cannot be read; quote it: '{key}={quoted}'") from error
    if override.package is not None:
        raise ConfigError(f"{key} = {text}: no @package here; use {override.key_or_group}={text}")
    if override.is_sweep_override() and not multirun:
        raise ConfigError(f"{key} = {text}: {_hints().several_values_hint(bare, text)}")
    return override


def _hints() -> Any:
    from trainlab.config import did_you_mean  # only a run that goes wrong reads how

    return did_you_mean


def _chosen_words(values: Lists, options: Lists) -> Lists:
    """Group -> the words typed for it. Raises ConfigError for one that does not exist."""
    asked: Lists = {}
    for group in (name for name in values if name in options):
        default = words.default_words().get(group, "")
        for value in values[group]:
            if isinstance(value, list) and not isinstance(default, list):
                fix = f"use {group}={default or options[group][0]}"
                raise ConfigError(f"{group} = {keys.as_typed(value)}: takes one word; {fix}")
            asked.setdefault(group, []).extend(value if isinstance(value, list) else [value])
        if unknown := [word for word in asked[group] if word not in options[group]]:
            raise _hints().unknown_word(group, unknown[0], options[group], default)
    return asked


def _check_typed(values: Lists, choices: Lists, known: Lists, own: Path | None) -> None:
    """Check every value typed, for all jobs of a sweep, against the words' files; composes
    nothing."""
    usual = words.default_words()
    # an experiment may choose other words than the defaults
    chosen = ({} if "experiment" in choices else usual) | choices
    typed = [(name, v) for name in values if name not in known for v in values[name]]
    leaves = [leaf for name, v in typed for leaf in keys.flat({name: v}).items()]
    for key, value in leaves:
        if key.startswith(HYDRAS):
            continue
        group, literal = key.split(".")[0], None
        if key not in keys.OWN_KEYS and group not in known:
            raise _hints().unknown_key(key, value, keys.KEYS, None, own)
        on = words.as_list(chosen.get(group)) if key not in keys.OWN_KEYS else []
        bodies = [words.file_values(group, word, own) for word in on]
        # in a group that takes several words, any of them may have the key
        if on and isinstance(usual.get(group), list):
            on, bodies = [",".join(on)], [{k: v for body in bodies for k, v in body.items()}]
        for word, own_keys in zip(on, bodies, strict=True):
            if key not in own_keys:
                raise _hints().unknown_key(key, value, own_keys | keys.OWN_KEYS, word, own)
            literal = own_keys.get(key, literal)
        if not (isinstance(value, str) and "${" in value):  # check_composed sees it resolved
            keys.check(key, value, literal)


def compose(hydra: Hydra, lines: list[str]) -> DictConfig:
    """The config of one job. Any error of Hydra becomes a one-line ConfigError."""
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


def check_composed(
    cfg: DictConfig, choices: Any, typed: Sequence[str], own: Path | None = None
) -> None:
    """Check every leaf of a composed config (without Hydra's part), from files or typed."""
    try:
        plain = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        text = str(error).splitlines()[0]
        raise ConfigError(f"{getattr(error, 'full_key', None) or 'config'}: {text}") from error
    for key in ONLY_TYPED:
        if plain[key] and key not in typed:
            raise ConfigError(
                f"{key} = {keys.as_typed(plain[key])}: can be set on the command line only"
            )
    known = words.groups(own)
    for key, value in keys.flat(plain).items():
        spoilt = any(k.startswith(f"{key}.") or key.startswith(f"{k}.") for k in keys.OWN_KEYS)
        if spoilt or (key not in keys.OWN_KEYS and key.split(".")[0] not in known):
            raise _hints().unknown_key(key, value, keys.OWN_KEYS, None, own)
        keys.check(key, value)
    Door(plain["trust"]).inspect(plain, "")
    _ranked(plain["monitor"], facts_of(plain), known["metric"])
    if plain["pause_at"] and choices["task"] not in ("train", "evaluate"):
        raise ConfigError(f"pause_at = {plain['pause_at']}: only task=train can pause; drop it")
    if plain["resume"] is None and choices["task"] == "evaluate":
        raise ConfigError("task = evaluate: needs a run that has ended; add resume=DIR")


def _ranked(monitor: str, facts: Mapping[str, Facts], metrics: Sequence[str]) -> None:
    """Refuse a `monitor` that ranks nothing."""
    name = monitor.removeprefix("val/")
    ranked = [own.name for own in facts.values() if own.direction]
    if name in ranked:
        return
    listed = [word for word in facts if word != "loss"]
    if name in facts:
        text = (
            f"{name} has no direction, so no weights are best in it; use monitor=val/{ranked[-1]}"
        )
    elif name in metrics:
        text = f"not among the metrics; add metric=[{','.join([*listed, name])}]"
    else:
        near = difflib.get_close_matches(name, ["loss", *metrics], 1)
        text = f"no such metric; use monitor=val/{near[0] if near else 'loss'}"
    raise ConfigError(f"monitor = {monitor}: {text}")
