"""The words in conf/: which there are, what was probably meant, how a recipe is shown."""

import difflib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from trainlab import spine
from trainlab.errors import ConfigError

# spelling alone does not find these; keys without "_"
SYNONYMS = {
    "learningrate": "optim.lr", "wd": "optim.weight_decay", "decay": "optim.weight_decay",
    "beta": "optim.betas", "momentum": "optim.momentum", "lrscheduler": "schedule",
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
INNER = "preflight", "probe"  # groups whose bodies are lists of parts, not settings

EXAMPLES = """\
  python -m trainlab                                          train with the defaults, in seconds
  python -m trainlab activation=elu optim=adam optim.lr=0.003
  python -m trainlab -m activation=sigmoid,tanh,relu seed=0,1   six runs
  python -m trainlab experiment=mnist data.root=DIR           a whole recipe
  python -m trainlab resume=auto                              go on where a run was stopped
  python -m trainlab --cfg job optim=adam                     show every value, train nothing"""


def conf() -> Path:
    """The folder of words: inside the package when installed, beside it in a checkout."""
    inside = Path(__file__).resolve().parent / "conf"
    return inside if inside.is_dir() else inside.parents[1] / "conf"


def groups(more: Path | None = None) -> dict[str, list[str]]:
    """Group -> its words, with those of a folder of the user's own."""
    roots = [conf(), more] if more else [conf()]
    paths = {(path.parent.name, path.stem) for root in roots for path in root.glob("*/*.yaml")}
    found: dict[str, list[str]] = {}
    for group, word in sorted(paths):
        found.setdefault(group, []).append(word)
    return found


@cache
def usual() -> dict[str, Any]:
    """Group -> its default word (a list where several are on, None where none is), in order."""
    import yaml

    entries = yaml.safe_load((conf() / "config.yaml").read_text())["defaults"]
    pairs = {k: v for entry in entries if isinstance(entry, dict) for k, v in entry.items()}
    return {group: word for group, word in pairs.items() if "/" not in group}


@cache
def literals(group: str, word: str, more: Path | None = None) -> dict[str, Any]:
    """Dotted key -> value as the word's own file has it, `optim.lr` -> 0.001."""
    from omegaconf import OmegaConf

    name = Path(group, f"{word}.yaml")
    path = more / name if more and (more / name).exists() else conf() / name
    if not path.exists():
        return {}
    package = group
    for line in path.read_text().splitlines():
        if line.startswith("# @package"):
            package = line.split()[-1].removeprefix("_global_")
    body = OmegaConf.to_container(OmegaConf.load(path))
    return spine.flat(body, f"{package}." if package else "")


def about(group: str, word: str) -> str:
    """The first comment of a word's file: its source."""
    for line in (conf() / group / f"{word}.yaml").read_text().splitlines():
        if line.startswith("# ") and not line.startswith("# @"):
            return line[2:]
    return ""


def closest(word: str, options: Iterable[str]) -> str | None:
    """What was probably meant: by the table of synonyms, else by spelling."""
    options, last = list(options), word.rsplit(".", 1)[-1]  # penalty.l1, l2: of another section
    meant = [SYNONYMS.get(_bare(word)), SYNONYMS.get(_bare(last))]
    meant += [option for option in options if _bare(option) == _bare(word)]
    meant += [option for option in options if option.rsplit(".", 1)[-1] == last]
    meant += [option for option in options if option.startswith(f"{word.lower()}_")]
    meant += difflib.get_close_matches(word.lower(), options, 1, 0.6)
    return next((option for option in meant if option in options), None)


def _bare(word: str) -> str:
    return word.lower().replace("_", "").replace("-", "")


def example(key: str, value: Any) -> str:
    """`optim.lr=0.1`, with the value made to fit: model.widths=[32]; or what would fit."""
    rule = spine.declared(key)
    try:
        value = [value] if rule and rule.each and not isinstance(value, list) else value
        spine.check(key, value)
    except ConfigError:
        return f"{key} ({rule.allowed()})"
    return f"{key}={spine.plain(value)}"


def no_word(group: str, word: Any, options: Iterable[str], default: Any = "") -> ConfigError:
    """That a group has no such word."""
    hint = "see --help" if default == "" else f"leave it out: the default is {spine.plain(default)}"
    if near := closest(str(word), options):
        hint = f"did you mean {group}={near}?"
    return ConfigError(f"{group} = {spine.plain(word)}: not one of {', '.join(options)}; {hint}")


def unknown(
    key: str, value: Any, leaves: Iterable[str], word: Any = None, more: Path | None = None
) -> ConfigError:
    """What is wrong with a key that does not exist: `leaves` do, `word` is chosen in its group."""
    group, _, rest = key.partition(".")
    section = key.rpartition(".")[0]
    known = groups(more)
    inside = sorted(leaf for leaf in leaves if leaf.startswith(f"{key}."))
    owners = [other for other in known.get(group, ()) if key in literals(group, other, more)]
    names = [*(leaf for leaf in leaves if "._" not in leaf), *([] if section else known)]
    if inside:
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
    return ConfigError(f"{key} = {spine.plain(value)}: {says}")


def help_text() -> str:
    """The page of --help: the words, the keys, six commands worth copying."""
    lines = ["trainlab: train a network and see inside. Settings are key=value.", "", EXAMPLES, ""]
    lines += ["Words (group=word, the default in brackets; each is a file conf/GROUP/WORD.yaml):"]
    for group, options in groups().items():
        on = several(usual().get(group))
        texts = [f"[{word}]" if word in on else word for word in options]
        lines.append(f"  {group:<13} {' '.join(texts)}")
    lines += ["", "Keys (key=value, the default after =; the keys of a word stand in its file):"]
    for key, rule in spine.SPINE.items():
        setting = f"{key}={spine.plain(rule.default)}"
        unit = f" [{rule.unit}]" if rule.unit else ""
        lines.append(f"  {setting:<24} {rule.help}{unit}; {rule.allowed()}")
    lines += [
        "",
        "Flags: -m (all combinations of a=1,2 b=x,y), --cfg job, --info,",
        "--config-dir DIR (words of your own),",
        '--hydra-help, --version; tab completion: eval "$(trainlab -sc install=bash)"',
    ]
    return "\n".join(lines)


def several(word: Any) -> list[str]:
    """The words of a group as a list, where one, several or none are on."""
    return [word] if isinstance(word, str) else list(word or [])


def recipe(cfg: Any, choices: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """What show.recipe prints: group -> word, and dotted key -> (value, its default).

    The default of a group's key is the literal in the word's file, that of a group its default
    word, that of every other key the spine's. Shown is what decides the run: neither how it
    was started nor the inside of a part.
    """
    from omegaconf import OmegaConf

    usually = usual()
    chosen = {group: choices[group] for group in usually if choices.get(group) is not None}
    own = {key: value for group in chosen for word in several(chosen[group])
           for key, value in literals(group, word).items()}  # fmt: skip
    own |= {key: rule.default for key, rule in spine.SPINE.items()}
    values = {
        key: (value, own.get(key, value))
        for key, value in spine.flat(OmegaConf.to_container(cfg, resolve=True)).items()
        if key.rsplit(".", 1)[-1] not in ("_partial_", "_target_")
        and key not in ("quiet", "resume", "resume_allow", "trust")
        and (key in spine.SPINE or key.split(".")[0] not in INNER)
    }
    values |= {group: (_text(word), _text(usually[group])) for group, word in chosen.items()}
    return {group: _text(word) for group, word in chosen.items()}, values


def card(cfg: Any, choices: Mapping[str, Any]) -> str:
    """The recipe as a markdown table, for TensorBoard's text page; what differs is bold."""
    chosen, values = recipe(cfg, choices)
    rows: dict[str, list[str]] = {group: [] for group in (*chosen, "run")}
    for key, (now, usual) in values.items():
        head = key.split(".")[0]
        text = now if key in chosen else f"{key}={spine.plain(now)}"
        rows[head if head in chosen else "run"].append(f"**{text}**" if now != usual else text)
    lines = ["| recipe | word | settings |", "|---|---|---|"]
    for group, texts in rows.items():
        word = texts.pop() if group in chosen else ""  # a group's word comes after its keys
        lines.append(f"| {group} | {word} | {' '.join(texts)} |")
    return "\n".join(lines)


def _text(word: Any) -> str:
    return ",".join(several(word)) or "none"
