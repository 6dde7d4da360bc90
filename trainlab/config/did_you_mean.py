"""What to say to a slip, and to --help. Only imported by a run that goes wrong or asks."""

import difflib
import errno
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainlab.config import keys, words
from trainlab.errors import ConfigError, MachineError, TrainlabError

# spelling alone does not find these; keys without "_"
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
  python -m trainlab                                          train with the defaults, in seconds
  python -m trainlab activation=elu optim=adam optim.lr=0.003
  python -m trainlab -m activation=sigmoid,tanh,relu seed=0,1   six runs
  python -m trainlab experiment=mnist data.root=DIR           a whole recipe
  python -m trainlab resume=auto                              go on where a run was stopped
  python -m trainlab --cfg job optim=adam                     show every value, train nothing"""


def closest(word: str, options: Iterable[str]) -> str | None:
    """What was probably meant: by the table of synonyms, else by spelling."""
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
    """`optim.lr=0.1`, with the value made to fit: model.widths=[32]; or what would fit."""
    rule = keys.declared(key)
    try:
        value = [value] if rule and rule.each and not isinstance(value, list) else value
        keys.check(key, value)
    except ConfigError:
        return f"{key} ({rule.allowed()})"
    return f"{key}={keys.as_typed(value)}"


def unknown_word(group: str, word: Any, options: Iterable[str], default: Any = "") -> ConfigError:
    """That a group has no such word."""
    hint = (
        "see --help" if default == "" else f"leave it out: the default is {keys.as_typed(default)}"
    )
    if near := closest(str(word), options):
        hint = f"did you mean {group}={near}?"
    return ConfigError(f"{group} = {keys.as_typed(word)}: not one of {', '.join(options)}; {hint}")


def unknown_key(
    key: str, value: Any, leaves: Iterable[str], word: Any = None, more: Path | None = None
) -> ConfigError:
    """What is wrong with a key that does not exist: `leaves` do, `word` is chosen in its group."""
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
        says = f"has keys of its own; set {' or '.join(inside)}"
    elif word and owners:
        says = f"{group}={word} has no {rest} ({', '.join(owners)}: yes); "
        says += f"use {group}={owners[0]}, or drop it"
    elif section in leaves:
        says = f"{section} is one value, without keys"
    elif near := closest(key, names):
        says = f"no such key; did you mean {example(near, value)}?"
    else:
        says = "no such key; see --help"
    return ConfigError(f"{key} = {keys.as_typed(value)}: {says}")


def malformed(arg: str, known: Iterable[str]) -> ConfigError:
    """What is wrong with an argument that is no KEY=VALUE."""
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
    """What was meant by several values without -m."""
    rule = keys.declared(key)
    if rule and rule.each:
        return f"a list is {key}=[{text}]; several runs need -m"
    if re.fullmatch(r"\d+,\d+", text) and rule and rule.kind is float:
        return f'the decimal point is "."; use {key}={text.replace(",", ".")} (several runs: -m)'
    return "one value, or -m for several runs"


def help_text(commands: Iterable[tuple[str, str]]) -> str:
    """The page of --help: lines worth copying, the commands (how each is typed, what it does), the
    words, the keys."""
    lines = ["trainlab: train a network and see inside. Settings are key=value.", "", EXAMPLES, ""]
    lines += ["Commands (`python -m trainlab` and `trainlab` are the same; each has its --help):"]
    lines += [f"  {typed:<30} {does}" for typed, does in commands]
    lines += [""]
    lines += ["Words (group=word, the default in brackets; each is a file conf/GROUP/WORD.yaml):"]
    for group, options in words.groups().items():
        on = words.as_list(words.default_words().get(group))
        texts = [f"[{word}]" if word in on else word for word in options]
        lines.append(f"  {group:<13} {' '.join(texts)}")
    checks = [f"[{w}]" if part.get("quick") else w for w, part in words.parts("check").items()]
    lines += ["", "Checks of preflight=full, in brackets those of preflight=quick:"]
    lines += [f"  {' '.join(checks)}"]
    lines += ["", "Keys (key=value, the default after =; the keys of a word stand in its file):"]
    for key, rule in keys.OWN_KEYS.items():
        setting = f"{key}={keys.as_typed(rule.default)}"
        unit = f" [{rule.unit}]" if rule.unit else ""
        lines.append(f"  {setting:<24} {rule.help}{unit}; {rule.allowed()}")
    lines += [
        "",
        "Flags: -m (all combinations of a=1,2 b=x,y), --cfg job, --info,",
        "--config-dir DIR (words of your own),",
        '--hydra-help, --version; tab completion: eval "$(trainlab -sc install=bash)"',
    ]
    return "\n".join(lines)


def as_trainlab_error(error: BaseException, place: str) -> TrainlabError:
    """The error of ours that says what happened; for a fault in the program, the place to look."""
    if isinstance(error, TrainlabError):
        return error
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        where = error.filename or "disk"
        return MachineError(f"{where}: {error.strerror}; choose another hydra.run.dir")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        first = (str(error) or "out of memory").splitlines()[0]
        return MachineError(f"memory: {first}; lower batch_size, or use device=cpu")
    return TrainlabError(f"{type(error).__name__}: {error}; {place}")
