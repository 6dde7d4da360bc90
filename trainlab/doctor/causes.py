"""Which finding explains which: causes are shown first, what follows from them is folded.

What a cause explains stands in the file of the rule that finds it (conf/rule/), or of the check,
where no rule does (conf/check/): names of findings, and of the sets below.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache

from trainlab.config import words
from trainlab.doctor.finding import ERROR, INFO, SEVERITIES, Finding

STUCK = {"fit.at_chance", "act.no_signal", "grad.vanishing", "signal.vanishing", "optim.lr_low"}
STUCK |= {"fit.cannot_overfit", "fit.undertrained", "metric.inconsistent"}
DEATH = STUCK | {"act.dead", "act.saturated"}
BLOW_UP = {"numeric.nonfinite", "loss.spike", "grad.exploding", "signal.exploding", "fit.at_chance"}
BLOW_UP |= {"optim.noisy", "fit.cannot_overfit", "fit.undertrained"}
FAR_OFF = {"fit.overfit", "data.split_shift", "fit.undertrained"}
GAP = FAR_OFF | {"data.labels_random", "norm.mode"}
SIZES = {"init.too_large", "init.too_small", "init.mismatch"}
RATES = {"optim.lr_high", "optim.lr_low", "optim.eps", "optim.overclipped", "optim.few_updates"}
LABELS = {"data.label_noise", "data.noisy_input", "data.renumbered", "loss.mismatch"}
SETS = {
    "stuck": STUCK, "death": DEATH, "blow_up": BLOW_UP, "far_off": FAR_OFF, "gap": GAP,
    "sizes": SIZES, "rates": RATES, "labels": LABELS,
    "symptoms": DEATH | BLOW_UP | GAP | RATES,
}  # fmt: skip


@cache
def explained() -> dict[str, frozenset[str]]:
    """Cause -> what it explains; never itself."""
    found: dict[str, frozenset[str]] = {}
    for group in ("rule", "check"):
        for part in words.parts(group).values():
            for cause, names in part.get("explains", {}).items():
                found[cause] = found.get(cause, frozenset()) | findings_of(names) - {cause}
    return found


def findings_of(names: Iterable[str]) -> frozenset[str]:
    """Names of findings, and of sets of them, as names of findings alone."""
    return frozenset().union(*(SETS.get(name, {name}) for name in names))


def ranked(found: Sequence[Finding]) -> list[Finding]:
    """Unexplained findings before explained ones, then worst first, then in the order given. Of two
    that explain each other the earlier one is the cause. What explains that nothing was learned is
    an error too."""
    alarms, explains = [f for f in found if f.severity != INFO], explained()

    def follows(f: Finding, cause: Finding) -> bool:
        mutual = cause.id in explains.get(f.id, ()) and f.since_step <= cause.since_step
        return f.id in explains.get(cause.id, ()) and not mutual

    causes = {f.id: next((c.id for c in alarms if follows(f, c)), "") for f in found}
    if alarms and all(causes[f.id] for f in alarms):  # in a circle: the earliest began it
        causes[min(alarms, key=lambda f: f.since_step).id] = ""
    stuck = any(f.id == "fit.at_chance" for f in alarms)

    def weighed(f: Finding) -> Finding:
        f = replace(f, follows=causes[f.id])
        fatal = stuck and f.severity != INFO and "fit.at_chance" in explains.get(f.id, ())
        return replace(f, severity=ERROR) if fatal and not f.follows else f

    return sorted(
        map(weighed, found), key=lambda f: (f.follows != "", SEVERITIES.index(f.severity))
    )
