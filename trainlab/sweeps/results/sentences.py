"""The conclusions of a sweep, as sentences; pure functions of its results and sweep.json."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from trainlab.sweeps.results.comparison import (
    Pair,
    Result,
    Setting,
    facts,
    interval,
    label,
    monitored,
    pairs,
    settings,
)
from trainlab.sweeps.results.edges import edges
from trainlab.sweeps.results.importance import ENOUGH, importances, installed
from trainlab.sweeps.results.seed_curves import plus_minus

SHOWN = 6  # settings: up to so many every pair is listed, above only the best against the others
HEAD = "setting", "n", "mean", "std", "95 % interval", "chosen"


def sentences(results: Sequence[Result], sweep: Mapping[str, Any]) -> list[str]:
    """The best setting and its test figures, which settings differ, ranges to extend,
    importances."""
    found = settings(results, sweep.get("nuisance", ()))
    if not found or not found[0].runs:
        finished = any(result["state"] == "finished" for result in results)
        return [] if finished else ["no run finished: nothing to compare"]
    lines = [best(found), *differences(found, sweep.get("nuisance", ())), *lost(found)]
    lines += at_edges(found, results, sweep.get("axes", {}))
    return lines + importance_lines(settings(results))


def table(found: Sequence[Setting]) -> list[list[str]]:
    """Rows under HEAD, one per setting with several seeds and a figure; `monitor` as logged."""
    rows = []
    for setting in found:
        if len(setting.picked) > 1 and setting.runs:
            values = [run["monitor"]["value"] for run in setting.runs.values()]
            middle, _, std = plus_minus(values).partition(" +- ")
            half = interval(values, setting.extra)
            ends = [f"{fmean(values) + side * half:.4f}" for side in (-1, 1)] if values[1:] else []
            row = [name(setting), str(len(values)), middle, std, "..".join(ends)]
            rows.append([*row, chosen(setting)])
    return rows


def name(setting: Setting) -> str:
    """`relu` where only one key varies, else `activation=relu norm=none`."""
    text = label(setting.values) or "all"
    return text.partition("=")[2] if len(setting.values) == 1 else text


def chosen(setting: Setting) -> str:
    """`optim.lr=0.1 (4 of 5 seeds)`; empty without nuisance keys."""
    picks = list(setting.chosen.values())
    first = max(picks, key=picks.count)
    if not first or len(picks) == 1:
        return first
    return f"{first} ({picks.count(first)} of {len(picks)} seeds)"


def best(found: Sequence[Setting]) -> str:
    """The winner on validation, with its test figures; no other setting's are shown."""
    winner, where = found[0], next(iter(found[0].runs.values()))["folder"]
    seeds = f" ({where})" if len(winner.picked) == 1 else f", over {len(winner.runs)} seeds"
    measures = facts(next(iter(winner.runs.values())))
    split = {
        name: ", ".join(f"{k} {plus_minus(winner.figures(name, k))}" for k in measures)
        for name in ("val", "test")
    }
    among = "" if len(found) == 1 else f"best of {len(found)}: "
    at = f" at {text}" if (text := chosen(winner)) else ""
    seeds = seeds if at else seeds.removeprefix(",")
    only = "of this one only, " if len(found) > 1 else ""
    return f"{among}{name(winner)}{at}{seeds}: val {split['val']}; {only}test {split['test']}"


def differences(found: Sequence[Setting], nuisance: Sequence[str]) -> list[str]:
    """Which settings differ and which do not, or why the runs cannot tell."""
    flattered = "the best of many scores too well by selection: add repeats=5"
    if len(found) == 1:
        own = len(found[0].picked) == 1 < len(found[0].options)
        keys = " ".join(nuisance)
        text = f"one seed (n = 1): the best {keys} was chosen on the seed that judges it, and"
        return [f"{text} {flattered}"] if own else []
    made = pairs(found)
    if not made and len(found[0].picked) == 1:
        return [f"one seed per setting (n = 1) cannot tell which settings differ, and {flattered}"]
    if not made:
        text = "no two settings finished two seeds in common (runs failed or were stopped by the"
        return [f"{text} search), so which settings differ cannot be told"]
    lines = []
    if len(found) <= SHOWN:
        lines = [sentence(pair) for pair in made]
    else:
        own = [pair for pair in made if pair.first is found[0]]
        within = [name(pair.second) for pair in own if not pair.differ]
        lines = [f"{name(found[0])} is better than {len(own) - len(within)} of {len(own)} others"]
        if within:
            lines.append(f"within noise of it ({len(within)}): {'; '.join(within[:10])}")
    shifting = [name(s) for s in found if s.extra]
    if shifting:
        lines.append(
            f"the best {' '.join(nuisance)} of {', '.join(shifting)} changes from seed to seed: "
            "their intervals are widened"
        )
    test = f"paired by seed; p of a t test, Holm over {len(made)} pairs" if made[1:] else "paired"
    lines.append(f"{test}; each 95 % interval is for its own pair (docs/comparison.md)")
    varied = found[0].values
    if "optim.lr" in varied and len(varied) > 1:
        lines.append("to compare each at its own best optim.lr: sweep.nuisance=[optim.lr]")
    return lines


def sentence(pair: Pair) -> str:
    """`relu and elu: within noise (difference 0.0004, 95 % -0.001..0.002, p 0.4, n 5)`"""
    first, second = name(pair.first), name(pair.second)
    own = monitored(next(iter(pair.first.runs.values())))
    difference = own.cost(pair.difference)  # in the direction of the figure itself
    low, high = difference - pair.width, difference + pair.width
    p = "p < 0.001" if pair.corrected < 0.001 else f"p {pair.corrected:.2g}"
    if pair.difference == pair.width == 0:
        return f"{first} and {second}: identical on each of {pair.n} seeds"
    spread = f"95 % {low:.2g}..{high:.2g}" if pair.width else "the same on every seed"
    figures = f"(difference {difference:.2g}, {spread}, {p}, n {pair.n})"
    if not pair.differ:
        return f"{first} and {second}: within noise {figures}"
    better, worse = (first, second) if pair.difference < 0 else (second, first)
    return f"{better} is better than {worse} {figures}"


def lost(found: Sequence[Setting]) -> list[str]:
    """Runs that did not finish, of settings with several seeds, and what follows from that."""
    lines = []
    for setting in found:
        if (n := setting.unfinished) and len(setting.picked) > 1:
            line = f"{name(setting)}: {n} run{'s' * (n > 1)} did not finish "
            line += f"(count{'s' * (n == 1)} as worst)"
            if gone := setting.gone:
                verb = "are" if gone > 1 else "is"
                line += f"; {gone} of {len(setting.picked)} seeds {verb} lost"
            lines.append(line)
    return lines


def at_edges(
    found: Sequence[Setting], results: Sequence[Result], axes: Mapping[str, Any]
) -> list[str]:
    """Edges of ranges, for the winner's values and for the nuisance values of every setting."""
    lines = edges(found[0].values, results, axes)
    for setting in found:
        if setting.runs:
            for text in edges(setting.commonest, results, axes):
                lines.append(f"{name(setting)}: {text}")
    return lines


def importance_lines(found: Sequence[Setting]) -> list[str]:
    """One line of importances, from the settings that finished on every seed."""
    tried = [(s.values, s.rank[1]) for s in found if s.rank[0] == 0]
    if len(tried) < ENOUGH or len(found[0].values) < 2:
        return []
    if not installed():
        return ["importances need optuna: pip install 'trainlab[search]'"]
    shares = ", ".join(f"{key} {share:.2f}" for key, share in importances(tried).items())
    return [f"importance (PED-ANOVA, {len(tried)} settings): {shares}"] if shares else []
