"""What -m adds to the check of a command line: spaces from files, every value of every axis."""

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from trainlab.config import keys, words
from trainlab.errors import ConfigError
from trainlab.sweeps.search.space import Space, with_value

MOST_JOBS = 10_000
OF_THE_SWEEP = "sweep.", "repeats", "quiet", "trust", "search", "hydra.", "hydra/"


def expanded(args: Sequence[str], multirun: bool, own: Path | None) -> list[str]:
    """`search=WORD` replaced by what conf/search/WORD.yaml says, but for keys that are typed."""
    import yaml

    typed = [arg for arg in args if arg.startswith("search=")]
    if len(typed) > 1:
        raise ConfigError(f"search is given twice ({' and '.join(typed)}); keep one")
    word, known = typed[0].partition("=")[2], words.groups(own).get("search", [])
    if word not in known:
        from trainlab.config import did_you_mean

        raise did_you_mean.unknown_word("search", word, known)
    if not multirun:
        raise ConfigError(f"search = {word}: many runs; add -m hydra/sweeper=random")
    roots = [own, words.conf()] if own else [words.conf()]
    path = next(p for p in (root / "search" / f"{word}.yaml" for root in roots) if p.exists())
    given = {arg.partition("=")[0] for arg in args}
    lines = [f"{k}={v}" for k, v in yaml.safe_load(path.read_text()).items() if k not in given]
    return [*(arg for arg in args if arg not in typed), *lines]


def values(overrides: Iterable[Override], groups: Iterable[str]) -> dict[str, list[Any]]:
    """Key -> every value that it takes over the sweep; of an interval, both ends. Raises
    ConfigError for what cannot be swept over."""
    found = {}
    for o in overrides:
        name, text = o.key_or_group, f"{o.key_or_group} = {o.get_value_string()}"
        if name == "resume":
            raise ConfigError(f"{text}: not with -m; the same command goes on with a sweep")
        if name == "hydra.sweep.subdir":
            raise ConfigError(f"{text}: the sweep names its folders itself; drop it")
        if o.is_discrete_sweep():
            found[name] = _listed(o, text)
    space = Space.of(o for o in overrides if not o.is_hydra_override())
    ends = space.extremes() if len(found) < len(space.keys) else {}
    for o in overrides:
        name, text = o.key_or_group, f"{o.key_or_group} = {o.get_value_string()}"
        if (swept := o.is_sweep_override() or name in space.keys) and name.startswith(OF_THE_SWEEP):
            raise ConfigError(f"{text}: one value; the sweep itself needs it")
        if swept and name not in found:
            rule = keys.declared(name)
            if name in groups or (rule and rule.kind not in (int, float)):
                raise ConfigError(f"{text}: has no numbers between; list what to try")
            found[name] = [_read(f"{name}={end}") for end in ends[name]]
            if rule and rule.kind is int and any(isinstance(v, float) for v in found[name]):
                raise ConfigError(f"{text}: whole numbers; use {name}=int({o.get_value_string()})")
    return found


def _listed(o: Override, text: str) -> list[Any]:
    listed = [with_value(o, v).value() for v in islice(o.sweep_iterator(), MOST_JOBS + 1)]
    if len(listed) > MOST_JOBS:
        raise ConfigError(f"{text}: more than {MOST_JOBS} values; name fewer")
    for value in (few := listed[:1000]):
        if few.count(value) > 1:
            raise ConfigError(f"{text}: {keys.as_typed(value)} is given twice; keep one")
    return listed


def _read(line: str) -> Any:
    return OverridesParser.create().parse_override(line).value()


def others(
    overrides: Iterable[Override], first: Sequence[str], groups: Iterable[str]
) -> list[list[str]]:
    """The first job with each other word of each group in turn: what their files add up to is
    checked in time that grows with the sum of the axes, not with their product."""
    found = []
    for place, o in enumerate(overrides):
        if o.key_or_group in groups and o.is_discrete_sweep():
            texts = list(o.sweep_string_iterator())[1:]
            lines = [f"{o.key_or_group}={text}" for text in texts]
            found += [[*first[:place], line, *first[place + 1 :]] for line in lines]
    return found


def first(overrides: Iterable[Override]) -> list[str]:
    """The overrides of one job: the first text of every axis."""
    ours = [o for o in overrides if not o.is_hydra_override()]
    space = Space.of(ours)
    chosen = space.values([axis.text(0) for axis in space.axes])
    return [
        f"{o.key_or_group}={chosen[o.key_or_group]}" if o.key_or_group in chosen else o.input_line
        for o in overrides
    ]
