"""The words in conf/: which exist, what their files say, and how a recipe is shown."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from trainlab.config import keys
from trainlab.errors import ConfigError, as_typed

# groups whose words are all in use, so that none is chosen
PARTS = {
    "check": "preflight=full runs every check, preflight=quick the fast ones",
    "rule": "the doctor asks every rule",
}
# what the file of a part says beside its node: its place in the order; of a check whether
# preflight=quick runs it and trainlab.check does, also with a step of one's own; its findings and
# what each of them explains (doctor/causes.py)
BESIDE = {"place": (0, float, int), "quick": (False, bool), "own_model": (False, bool),
          "own_step": (False, bool), "explains": ({}, dict)}  # fmt: skip
LAST = 1e6  # the place of a part that names none: after ours
INNER = "preflight", "probe", "metric"  # groups whose bodies are lists of parts, not settings


def conf() -> Path:
    """The folder of words: inside the package when installed, beside it in a checkout."""
    inside = Path(__file__).resolve().parents[1] / "conf"
    return inside if inside.is_dir() else inside.parents[1] / "conf"


def groups(more: Path | None = None) -> dict[str, list[str]]:
    """Group -> its words, including those of the user's own folder `more`; without PARTS."""
    roots = [conf(), more] if more else [conf()]
    paths = {(path.parent.name, path.stem) for root in roots for path in root.glob("*/*.yaml")}
    names: dict[str, list[str]] = {}
    for group, word in sorted(paths):
        if group not in PARTS:
            names.setdefault(group, []).append(word)
    return names


def parts(group: str, more: Path | None = None) -> dict[str, dict[str, Any]]:
    """Word -> what its file says, in the order of their places, of a group of PARTS; with those of
    a folder of the user's own. Raises ConfigError for a file that is not of this form."""
    found = dict(_packaged(group))
    for path in more.glob(f"{group}/*.yaml") if more else ():
        found[path.stem] = _own_part(path)
    return dict(sorted(found.items(), key=lambda item: (item[1].get("place", LAST), item[0])))


@cache
def _packaged(group: str) -> dict[str, dict[str, Any]]:
    import yaml

    # read at every start, so by libyaml: PyYAML alone takes 10 times as long (61 ms, not 6)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    files = conf().glob(f"{group}/*.yaml")
    return {path.stem: loader(path.read_text()).get_single_data() for path in files}


def _own_part(path: Path) -> dict[str, Any]:
    """A part of the user's own."""
    import yaml
    from omegaconf import OmegaConf

    where = f"{path.parent.name}/{path.name}"
    try:
        body = OmegaConf.to_container(OmegaConf.load(path))
    except (yaml.YAMLError, OSError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(body, dict) or "_target_" not in body:
        raise ConfigError(f"{where}: has no _target_; name the function it stands for")
    for key, (usual, *kinds) in BESIDE.items():
        if key in body and type(body[key]) not in kinds:
            allowed = "such as " + as_typed(usual)
            raise ConfigError(f"{where}: {key} = {as_typed(body[key])}: must be {allowed}")
    return body


def node(part: Mapping[str, Any]) -> dict[str, Any]:
    """What the door builds of a part."""
    return {key: value for key, value in part.items() if key not in BESIDE}


def check_lists(more: Path | None = None) -> dict[str, dict[str, Any]]:
    """Name -> the `checks` of a word of preflight, as its file names them: /all_checks@checks."""
    found = parts("check", more)
    quick = {word: node(part) for word, part in found.items() if part.get("quick")}
    return {
        "all_checks": {word: node(part) for word, part in found.items()},
        "quick_checks": quick,
    }


@cache
def default_words() -> dict[str, Any]:
    """Group -> its default word (a list for groups that take several, None where there is none), in
    the order of config.yaml."""
    import yaml

    entries = yaml.safe_load((conf() / "config.yaml").read_text())["defaults"]
    pairs = {k: v for entry in entries if isinstance(entry, dict) for k, v in entry.items()}
    return {group: word for group, word in pairs.items() if "/" not in group}


@cache
def file_values(group: str, word: str, more: Path | None = None) -> dict[str, Any]:
    """Dotted key -> its value in the word's file, `optim.lr` -> 0.001."""
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
    for line in body.pop("defaults", []) if group == "preflight" else []:
        name, _, key = line.lstrip("/").partition("@")
        body[key] = check_lists(more).get(name, {})
    return keys.flat(body, f"{package}." if package else "")


def source(group: str, word: str) -> str:
    """The first comment in a word's file, which names its source."""
    for line in (conf() / group / f"{word}.yaml").read_text().splitlines():
        if line.startswith("# ") and not line.startswith("# @"):
            return line[2:]
    return ""


def as_list(word: Any) -> list[str]:
    """The words chosen in a group as a list: one, several or none."""
    return [word] if isinstance(word, str) else list(word or [])


def recipe(cfg: Any, choices: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """What Show.recipe prints: group -> word, and dotted key -> (value, its default).

    The default of a group's key is the literal in the word's file, that of a group its default
    word, that of every other key the own keys's. Shown is what decides the run: neither how it
    was started nor the inside of a part.
    """
    from omegaconf import OmegaConf

    usually = default_words()
    chosen = {group: choices[group] for group in usually if choices.get(group) is not None}
    own = {key: value for group in chosen for word in as_list(chosen[group])
           for key, value in file_values(group, word).items()}  # fmt: skip
    own |= {key: rule.default for key, rule in keys.OWN_KEYS.items()}
    values = {
        key: (value, own.get(key, value))
        for key, value in keys.flat(OmegaConf.to_container(cfg, resolve=True)).items()
        if key.rsplit(".", 1)[-1] not in ("_partial_", "_target_")
        and key not in ("quiet", "resume", "resume_allow", "trust")
        and (key in keys.OWN_KEYS or key.split(".")[0] not in INNER)
    }
    values |= {group: (_text(word), _text(usually[group])) for group, word in chosen.items()}
    return {group: _text(word) for group, word in chosen.items()}, values


def recipe_table(cfg: Any, choices: Mapping[str, Any]) -> str:
    """The recipe as a markdown table for TensorBoard's text page; what differs from the default is
    bold."""
    chosen, values = recipe(cfg, choices)
    rows: dict[str, list[str]] = {group: [] for group in (*chosen, "run")}
    for key, (now, usual) in values.items():
        head = key.split(".")[0]
        text = now if key in chosen else f"{key}={keys.as_typed(now)}"
        rows[head if head in chosen else "run"].append(f"**{text}**" if now != usual else text)
    lines = ["| recipe | word | settings |", "|---|---|---|"]
    for group, texts in rows.items():
        word = (
            texts.pop() if group in chosen else ""
        )  # recipe() lists a group's word after its keys
        lines.append(f"| {group} | {word} | {' '.join(texts)} |")
    return "\n".join(lines)


def _text(word: Any) -> str:
    return ",".join(as_list(word)) or "none"
