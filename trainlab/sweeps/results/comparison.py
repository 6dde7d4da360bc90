"""Which settings of a sweep differ, and which do not; pure over the results of its ledger.

A setting is what the sweep varies, but for the seed and the nuisance keys. Settings are compared by
`monitor` on validation, paired by seed: the same seed is the same split of the batches and, where
the networks agree, the same start. With nuisance keys each setting stands at its own best value of
them, chosen for every seed on the *other* seeds: a value chosen on the seed that it is judged by
flatters, most where there are many values to choose from.

Assumed: seeds are independent, and differences of one pair are about normal. A choice that changes
from seed to seed makes the scores of a setting depend on one another: the plain t test then calls
up to 23 % of equal settings different (10 seeds, 8 values; docs/comparison.md). There the variance
of the mean is widened as Nadeau and Bengio (2003, https://doi.org/10.1023/A:1024068626366) do.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from statistics import fmean
from typing import Any

from trainlab.errors import as_typed
from trainlab.training.metrics import Facts

Result = Mapping[str, Any]  # one file of the ledger
CHANCE = 0.05  # the share of equal settings that may be called different


def score(result: Result) -> float:
    """`monitor` on validation, lower is better; inf of a run that did not finish."""
    if result["state"] != "finished" or result["monitor"]["value"] is None:
        return math.inf  # a task that trains nothing has no figure
    return monitored(result).cost(result["monitor"]["value"])


def facts(result: Result) -> dict[str, Facts]:
    """Name -> Facts of the loss and of every metric of a run that can be ranked."""
    found = {name: Facts(**own) for name, own in result["metrics"].items()}
    return {name: own for name, own in found.items() if own.direction}


def monitored(result: Result) -> Facts:
    """Of the figure that the sweep is judged by."""
    return Facts(**result["metrics"][result["monitor"]["name"].removeprefix("val/")])


def lost(result: Result | None) -> bool:
    """Without a figure, and not because the search stopped it."""
    return result is None or (result["state"] != "dropped" and not math.isfinite(score(result)))


def label(values: Mapping[str, Any]) -> str:
    """`activation=relu optim.lr=0.1`"""
    short = {k: f"{v:.4g}" if isinstance(v, float) else as_typed(v) for k, v in values.items()}
    return " ".join(f"{key}={value}" for key, value in short.items())


@dataclass(frozen=True)
class Setting:
    """One setting of a sweep, for each seed at the nuisance values that the other seeds chose."""

    values: dict[str, Any]
    options: dict[str, dict[str, Any]]  # text -> nuisance values, all that were tried
    chosen: dict[Any, str]  # seed -> text
    picked: dict[Any, Result | None]  # seed -> the run with them
    unfinished: int  # of all runs of the setting; one that the search stopped is none

    @cached_property
    def runs(self) -> dict[Any, Result]:
        """Seed -> the finished run that stands for it."""
        return {s: r for s, r in self.picked.items() if r and math.isfinite(score(r))}

    @cached_property
    def scores(self) -> dict[Any, float]:
        return {seed: score(run) for seed, run in self.runs.items()}

    @property
    def rank(self) -> tuple[int, float]:
        """For sorting, best first: a seed that is lost is worse than any score."""
        return len(self.picked) - len(self.runs), fmean(self.scores.values() or [math.inf])

    @property
    def gone(self) -> int:
        """Seeds without a figure, but for those that the search stopped."""
        return sum(lost(run) for run in self.picked.values())

    @property
    def commonest(self) -> dict[str, Any]:
        """The nuisance values that were chosen for most seeds."""
        return self.options[Counter(self.chosen.values()).most_common(1)[0][0]]

    @property
    def extra(self) -> int:
        """How many different choices were made, beyond one."""
        return len(set(self.chosen.values())) - 1

    def figures(self, split: str, name: str) -> list[float]:
        """The loss or a metric of its runs."""
        return [run["results"][split][name] for run in self.runs.values()]


def settings(results: Sequence[Result], nuisance: Sequence[str] = ()) -> list[Setting]:
    """Best first. Runs that did not finish count as worse than all others when one is chosen."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        values, _ = apart(result, nuisance)
        groups.setdefault(as_typed(list(values.items())), []).append(result)
    seeds = list(dict.fromkeys(r["values"].get("seed") for r in results))
    found = [_setting(group, seeds, nuisance) for group in groups.values()]
    return sorted(found, key=lambda setting: setting.rank)


def apart(result: Result, nuisance: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a run's setting is, and its nuisance values; the seed is neither."""
    varied = {key: value for key, value in result["values"].items() if key != "seed"}
    tuned = {key: varied.pop(key) for key in nuisance if key in varied}
    return varied, tuned


def _setting(group: Sequence[Result], seeds: Sequence[Any], nuisance: Sequence[str]) -> Setting:
    values: dict[str, dict[str, Any]] = {}  # text -> nuisance values
    runs: dict[str, dict[Any, Result]] = {}  # text -> seed -> run
    for result in group:
        own, tuned = apart(result, nuisance)
        text = " ".join(f"{key}={as_typed(value)}" for key, value in tuned.items())
        values[text] = tuned
        runs.setdefault(text, {})[result["values"].get("seed")] = result

    def cost(text: str, others: Sequence[Any]) -> tuple[int, float]:
        seen = [score(runs[text][s]) if s in runs[text] else math.inf for s in others]
        finished = [value for value in seen if math.isfinite(value)]
        return len(seen) - len(finished), fmean(finished or [math.inf])

    chosen = {}
    for seed in seeds:
        others = [s for s in seeds if s != seed] or [seed]
        chosen[seed] = min(runs, key=lambda text, others=others: cost(text, others))
    picked = {seed: runs[text].get(seed) for seed, text in chosen.items()}
    unfinished = sum(lost(result) for result in group)
    return Setting(own, values, chosen, picked, unfinished)


@dataclass(frozen=True)
class Pair:
    """Two settings on the seeds that both have; difference of the scores, first - second."""

    first: Setting
    second: Setting
    n: int
    difference: float
    width: float  # half of the 95 % interval
    p: float  # two-sided, of this pair alone
    corrected: float = 1.0  # p after Holm, over all pairs

    @property
    def differ(self) -> bool:
        return self.corrected < CHANCE


def pairs(found: Sequence[Setting]) -> list[Pair]:
    """Every pair of settings that have two seeds in common, Holm-corrected."""
    made = []
    for first, second in combinations(found, 2):
        shared = [seed for seed in first.scores if seed in second.scores]
        if len(shared) > 1:
            scores = [[setting.scores[s] for s in shared] for setting in (first, second)]
            figures = paired(*scores, first.extra + second.extra)
            made.append((first, second, len(shared), *figures))
    corrected = holm([figures[-1] for figures in made])
    return [Pair(*figures, p) for figures, p in zip(made, corrected, strict=True)]


def paired(
    first: Sequence[float], second: Sequence[float], extra: int = 0
) -> tuple[float, float, float]:
    """Mean of first - second, half of its 95 % interval and the p of a paired t test, n >= 2 pairs.

    extra: as of `error`. Without any spread there is no t test: p is that of the signs, 2^(1-n),
    or 1 where all are equal. What the rounding of the scores can make is neither spread nor
    difference.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    n, middle = len(differences), fmean(differences)
    rounding = 1e-12 * max(map(abs, (*first, *second)))
    if deviation(differences) <= rounding:
        return (middle, 0.0, 2.0 ** (1 - n)) if abs(middle) > rounding else (0.0, 0.0, 1.0)
    from scipy.special import stdtr

    p = 2 * stdtr(n - 1, -abs(middle) / error(differences, extra))
    return middle, interval(differences, extra), float(p)


def deviation(values: Sequence[float]) -> float:
    """Standard deviation of n >= 2 values, n - 1 in the denominator; 20 times as fast as
    statistics.stdev, which is exact."""
    middle = fmean(values)
    return math.sqrt(math.fsum((v - middle) ** 2 for v in values) / (len(values) - 1))


def error(values: Sequence[float], extra: int = 0) -> float:
    """Standard error of the mean of n >= 2 values.

    extra: choices beyond one that other seeds made for them, which binds the values together. Then
    the variance is s^2 (1/n + max(2, extra)/(n - 1)) instead of s^2/n.
    """
    n = len(values)
    return deviation(values) * math.sqrt(1 / n + (max(2, extra) / (n - 1) if extra else 0))


def interval(values: Sequence[float], extra: int = 0) -> float:
    """Half of the 95 % interval of the mean; nan for one value."""
    from scipy.special import stdtrit

    if len(values) < 2:
        return math.nan
    return float(stdtrit(len(values) - 1, 0.975)) * error(values, extra)


def holm(chances: Sequence[float]) -> list[float]:
    """Holm 1979: p that hold for all together, in the order given."""
    adjusted, worst = [0.0] * len(chances), 0.0
    for rank, place in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        worst = max(worst, min(1.0, (len(chances) - rank) * chances[place]))
        adjusted[place] = worst
    return adjusted
