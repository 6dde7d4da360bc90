"""Error hints for mistyped settings, and the text of --help. Imported only when one of them is
needed."""

import difflib
import errno
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainlab.config import keys, words
from trainlab.errors import ConfigError, MachineError, TrainlabError

# names that spelling alone does not match; "_" is removed from both
SYNONYMS = {
    "learningrate": "optim.lr", "lr": "optim.lr", "wd": "optim.weight_decay",
    "decay": "optim.weight_decay", "beta": "optim.betas", "momentum": "optim.momentum",
    "lrscheduler": "schedule",
    "act": "activation", "nonlinearity": "activation", "hidden": "model.widths",
    "layers": "model.widths", "hiddensize": "model.widths", "hiddensizes": "model.widths",
    "width": "model.widths", "units": "model.widths", "filters": "model.channels",
    "network": "model", "net": "model", "arch": "model", "criterion": "loss",
    "normalization": "norm", "batchnorm": "norm", "initializer": "init", "weightinit": "init",
    "initialization": "init", "bs": "batch_size", "batch": "batch_size", "gpu": "device",
    "cuda": "device", "steps": "max_steps", "gradclip": "clip.norm", "clipgrad": "clip.norm",
    "gradnorm": "clip.norm", "randomseed": "seed", "checks": "preflight", "recipe": "experiment",
    "transform": "preprocess", "augmentation": "augment", "off": "none", "false": "none",
    "none": "constant", "bn": "batch", "ln": "layer", "kaiming": "he_normal",
    "glorot": "xavier_normal", "ce": "cross_entropy", "test": "evaluate",
}  # fmt: skip

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}
EXAMPLES = """\
  python -m trainlab                                          train with the defaults, takes seconds
  python -m trainlab activation=elu optim=adam optim.lr=0.003
  python -m trainlab -m activation=sigmoid,tanh,relu seed=0,1   six runs
  python -m trainlab experiment=mnist data.root=DIR           a complete recipe
  python -m trainlab resume=auto                              resume the newest unfinished run
  python -m trainlab --cfg job optim=adam                     show every value, train nothing"""


def closest(word: str, options: Iterable[str]) -> str | None:
    """The option that was probably meant: a synonym, else the closest spelling."""
    options, last = list(options), word.rsplit(".", 1)[-1]  # penalty.l1, l2: of another section
    meant = [SYNONYMS.get(_bare(word)), SYNONYMS.get(_bare(last))]
    meant += [option for option in options if _bare(option) == _bare(word)]
    meant += [option for option in options if option.rsplit(".", 1)[-1] == last]
    meant += [option for option in options if option.startswith(f"{word.lower()}_")]
    meant += [option for option in options if sorted(option) == sorted(word)]  # adma
    meant += difflib.get_close_matches(word.lower(), options, 1, 0.6)
    return next((option for option in meant if option in options), None)


def _bare(word: str) -> str:
    return word.lower().replace("_", "").replace("-", "")


def example(key: str, value: Any) -> str:
    """`optim.lr=0.1`, a single value as a list where the key takes one (model.widths=[32]); where
    the value is not allowed, the key and what is."""
    rule = keys.declared(key)
    try:
        value = [value] if rule and rule.each and not isinstance(value, list) else value
        keys.check(key, value)
    except ConfigError:
        return f"{key} ({rule.allowed()})"
    return f"{key}={keys.as_typed(value)}"


def unknown_word(group: str, word: Any, options: Iterable[str], default: Any = "") -> ConfigError:
    """The error for a word that a group does not have."""
    hint = (
        "see --help" if default == "" else f"leave it out: the default is {keys.as_typed(default)}"
    )
    if near := closest(str(word), options):
        hint = f"did you mean {group}={near}?"
    return ConfigError(f"{group} = {keys.as_typed(word)}: not one of {', '.join(options)}; {hint}")


def unknown_key(
    key: str, value: Any, leaves: Iterable[str], word: Any = None, more: Path | None = None
) -> ConfigError:
    """The error for a key that does not exist: `leaves` are the keys that do, `word` is the one
    chosen in its group."""
    group, _, rest = key.partition(".")
    section = key.rpartition(".")[0]
    known = words.groups(more)
    inside = sorted(leaf for leaf in leaves if leaf.startswith(f"{key}."))
    owners = [
        other for other in known.get(group, ()) if key in words.file_values(group, other, more)
    ]
    names = [*(leaf for leaf in leaves if "._" not in leaf), *([] if section else known)]
    if group in words.PARTS:
        says = f"no setting: {words.PARTS[group]}"
    elif inside:
        says = f"is a section; set {' or '.join(inside)}"
    elif word and owners:
        says = f"{group}={word} has no {rest} ({', '.join(owners)} have it); "
        says += f"use {group}={owners[0]}, or drop it"
    elif section in leaves:
        says = f"{section} is a single value, not a section"
    elif near := closest(key, names):
        says = f"no such key; did you mean {example(near, value)}?"
    else:
        says = "no such key; see --help"
    return ConfigError(f"{key} = {keys.as_typed(value)}: {says}")


def malformed(arg: str, known: Iterable[str]) -> ConfigError:
    """The error for an argument that is not KEY=VALUE."""
    key, _, text = arg.partition("=")
    bare = key.lstrip("+~")
    if key.startswith("~"):
        return ConfigError(f"{arg}: a key cannot be removed; set it, as in {bare}=VALUE")
    if pair := re.fullmatch(r"([\w.]+):([^=]*)", arg):
        return ConfigError(f'{arg}: use "=": {pair[1]}={pair[2].strip()}')
    if "=" not in arg.lstrip("="):
        return ConfigError(f"{arg}: a setting is key=value, such as optim.lr=0.01; see --help")
    if key.startswith("+"):
        near = closest(bare, (*known, *keys.KEYS))
        hint = f"did you mean {near}={text}?" if near else "see --help"
        return ConfigError(f"{key} = {text}: keys cannot be added; {hint}")
    rule = keys.declared(bare)
    must = f"must be {rule.allowed()}" if rule else f"use {key}=VALUE"
    return ConfigError(f"{key} is empty: {must}; see --help")


def several_values_hint(key: str, text: str) -> str:
    """The hint for several values without -m."""
    rule = keys.declared(key)
    if rule and rule.each:
        return f"a list is {key}=[{text}]; several runs need -m"
    if re.fullmatch(r"\d+,\d+", text) and rule and rule.kind is float:
        return f'the decimal point is "."; use {key}={text.replace(",", ".")} (several runs: -m)'
    return "give one value, or add -m for several runs"


def help_text(commands: Iterable[tuple[str, str]]) -> str:
    """The page of --help: lines worth copying, the commands (how each is typed, what it does), the
    words, the keys."""
    lines = [
        "trainlab: train a network and see what happens inside it. Settings are key=value.",
        "",
        EXAMPLES,
        "",
    ]
    lines += ["Commands (`python -m trainlab` and `trainlab` are the same; each has its --help):"]
    lines += [f"  {typed:<30} {does}" for typed, does in commands]
    lines += [""]
    lines += ["Words (group=word; defaults in brackets; each word is a file conf/GROUP/WORD.yaml):"]
    for group, options in words.groups().items():
        on = words.as_list(words.default_words().get(group))
        texts = [f"[{word}]" if word in on else word for word in options]
        lines.append(f"  {group:<13} {' '.join(texts)}")
    checks = [f"[{w}]" if part.get("quick") else w for w, part in words.parts("check").items()]
    lines += ["", "Checks of preflight=full, in brackets those of preflight=quick:"]
    lines += [f"  {' '.join(checks)}"]
    lines += ["", "Keys (shown with their defaults; a word's own keys are listed in its file):"]
    for key, rule in keys.OWN_KEYS.items():
        setting = f"{key}={keys.as_typed(rule.default)}"
        unit = f" [{rule.unit}]" if rule.unit else ""
        lines.append(f"  {setting:<24} {rule.help}{unit}; {rule.allowed()}")
    lines += [
        "",
        "Flags: -m (run every combination of a=1,2 b=x,y), --cfg job, --info,",
        "--config-dir DIR (a folder with your own words),",
        '--hydra-help, --version; tab completion: eval "$(trainlab -sc install=bash)"',
    ]
    return "\n".join(lines)


def as_trainlab_error(error: BaseException, place: str) -> TrainlabError:
    """Any exception as a TrainlabError; that of a bug in trainlab says where its traceback is."""
    if isinstance(error, TrainlabError):
        return error
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        where = error.filename or "disk"
        return MachineError(f"{where}: {error.strerror}; choose another hydra.run.dir")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        first = (str(error) or "out of memory").splitlines()[0]
        return MachineError(f"memory: {first}; lower batch_size, or use device=cpu")
    return TrainlabError(f"{type(error).__name__}: {error}; {place}")
