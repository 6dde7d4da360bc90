"""The words in conf/: which there are, what was probably meant, how a recipe is shown."""

import difflib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from trainlab import spine
from trainlab.errors import ConfigError

# edit distance alone does not find these
SYNONYMS = {
    "lr": "optim.lr", "learning_rate": "optim.lr", "wd": "optim.weight_decay",
    "beta": "optim.betas", "weight_decay": "optim.weight_decay", "l2": "penalty.l2",
    "optimizer": "optim", "opt": "optim", "optimiser": "optim", "scheduler": "schedule",
    "lr_scheduler": "schedule", "lr_schedule": "schedule", "act": "activation",
    "activations": "activation", "nonlinearity": "activation", "dropout": "model.dropout",
    "hidden": "model.widths", "layers": "model.widths", "hidden_size": "model.widths",
    "width": "model.widths", "units": "model.widths", "filters": "model.channels",
    "dataset": "data", "network": "model", "net": "model", "arch": "model", "criterion": "loss",
    "normalization": "norm", "batch_norm": "norm", "initializer": "init",
    "initialization": "init", "epoch": "epochs", "n_epochs": "epochs", "num_epochs": "epochs",
    "bs": "batch_size", "batch": "batch_size", "steps": "max_steps", "gpu": "device",
    "cuda": "device", "clip_norm": "clip.norm", "grad_clip": "clip.norm", "random_seed": "seed",
    "checks": "preflight", "probes": "probe", "num_threads": "threads", "recipe": "experiment",
    "transform": "preprocess",
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
    found: dict[str, set[str]] = {}
    for root in (conf(), *([more] if more else [])):
        for path in root.glob("*/*.yaml"):
            found.setdefault(path.parent.name, set()).add(path.stem)
    return {group: sorted(found[group]) for group in sorted(found)}


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
    options = list(options)
    meant = SYNONYMS.get(word.lower())
    if meant in options:
        return meant
    if near := difflib.get_close_matches(word, options, 1, 0.6):
        return near[0]
    last = word.rsplit(".", 1)[-1]  # penalty.l1, l2: the key of another section
    meant = SYNONYMS.get(last.lower())
    if meant in options:
        return meant
    same = [option for option in options if option.rsplit(".", 1)[-1] == last]
    return same[0] if same else None


def no_word(group: str, word: Any, options: Iterable[str], default: Any = "") -> ConfigError:
    """That a group has no such word."""
    near = closest(str(word), options)
    hint = f"did you mean {group}={near}?" if near else "see --help"
    if not near and default != "":
        hint = f"the default is {spine.plain(default)}"
    return ConfigError(f"{group} = {spine.plain(word)}: not one of {', '.join(options)}; {hint}")


def unknown(
    key: str,
    value: Any,
    leaves: Mapping[str, Any],
    known: Mapping[str, list[str]],
    word: Any,
    more: Path | None = None,
) -> ConfigError:
    """What is wrong with a key that does not exist: `leaves` do, `known` are the groups, `word` is
    the one chosen in the key's group."""
    group, _, rest = key.partition(".")
    text = f"{key} = {spine.plain(value)}"
    if inside := sorted(leaf for leaf in leaves if leaf.startswith(f"{key}.")):
        return ConfigError(f"{text}: has keys of its own; set {' or '.join(inside)}")
    if group in known and isinstance(word, str):
        owners = [other for other in known[group] if key in literals(group, other, more)]
        if owners:
            return ConfigError(
                f"{text}: {group}={word} has no {rest} ({', '.join(owners)}: yes); "
                f"use {group}={owners[0]}, or drop it"
            )
    if key.rpartition(".")[0] in leaves:
        return ConfigError(f"{text}: {key.rpartition('.')[0]} is one value, without keys")
    near = closest(
        key, [*(leaf for leaf in leaves if "._" not in leaf), *(known if "." not in key else ())]
    )
    hint = f"did you mean {near}={spine.plain(value)}?" if near else "see --help"
    return ConfigError(f"{text}: no such key; {hint}")


def help_text() -> str:
    """The page of --help: the words, the keys, six commands worth copying."""
    lines = ["trainlab: train a network and see inside. Settings are key=value.", "", EXAMPLES, ""]
    lines.append(
        "Words (group=word, the default in brackets; each is a file conf/GROUP/WORD.yaml):"
    )
    chosen = usual()
    for group, options in groups().items():
        marked = chosen.get(group) or "null"
        on = marked if isinstance(marked, list) else [marked]
        texts = [f"[{word}]" if word in on else word for word in options]
        lines.append(f"  {group:<13} {' '.join(texts)}")
    lines += ["", "Keys (key=value, the default after =; the keys of a word stand in its file):"]
    values = spine.flat(spine.defaults())
    for key, rule in spine.SPINE.items():
        unit = f" [{rule.unit}]" if rule.unit else ""
        lines.append(
            f"  {f'{key}={spine.plain(values[key])}':<24} {rule.help}{unit}; {rule.allowed()}"
        )
    lines += [
        "",
        "Flags: -m (all combinations of a=1,2 b=x,y), --cfg job, --info,",
        "--config-dir DIR (words of your own),",
        '--hydra-help, --version; tab completion: eval "$(trainlab -sc install=bash)"',
    ]
    return "\n".join(lines)


def recipe(
    cfg: Any, choices: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, tuple[Any, Any]]]:
    """What show.recipe prints: group -> word, and dotted key -> (value, its default).

    The default of a group's key is the literal in the word's file, that of a group its default
    word, that of every other key the spine's.
    """
    usually = usual()
    chosen = {group: choices.get(group) for group in usually if choices.get(group) is not None}
    own = {key: value for group in chosen for word in _several(chosen[group])
           for key, value in literals(group, word).items()}  # fmt: skip
    own |= spine.flat(spine.defaults())
    values: dict[str, tuple[Any, Any]] = {}
    for key, value in _settings(cfg).items():
        values[key] = (value, own.get(key, value))
    for group, word in chosen.items():
        values[group] = (_text(word), _text(usually[group]))
    return {group: _text(word) for group, word in chosen.items()}, values


def card(cfg: Any, choices: Mapping[str, Any]) -> str:
    """The recipe as a markdown table, for TensorBoard's text page; what differs is bold."""
    chosen, values = recipe(cfg, choices)
    lines = ["| recipe | word | settings |", "|---|---|---|"]
    shown = {
        key: f"**{key}={spine.plain(now)}**" if now != usual else f"{key}={spine.plain(now)}"
        for key, (now, usual) in values.items()
    }
    for group, word in {**chosen, "run": ""}.items():
        heads = {key: key.split(".")[0] for key in shown if key not in chosen}
        inside = [shown[k] for k, h in heads.items() if (h if h in chosen else "run") == group]
        bold = word and values[group][0] != values[group][1]
        lines.append(f"| {group} | {f'**{word}**' if bold else word} | {' '.join(inside)} |")
    return "\n".join(lines)


def _settings(cfg: Any) -> dict[str, Any]:
    """What decides the run, by dotted key: neither how it was started nor the inside of a part."""
    from omegaconf import OmegaConf

    return {
        key: value
        for key, value in spine.flat(OmegaConf.to_container(cfg, resolve=True)).items()
        if key.rsplit(".", 1)[-1] not in ("_partial_", "_target_")
        and key not in ("quiet", "resume", "resume_allow", "trust")
        and (key in spine.SPINE or key.split(".")[0] not in INNER)
    }


def _several(word: Any) -> list[str]:
    return [word] if isinstance(word, str) else list(word or [])


def _text(word: Any) -> str:
    return ",".join(_several(word)) or "none"
