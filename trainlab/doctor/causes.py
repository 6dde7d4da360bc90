"""Which finding explains which: causes are shown first, what follows from them is folded."""

from collections.abc import Sequence
from dataclasses import replace

from trainlab.doctor.finding import ERROR, INFO, SEVERITIES, Finding

STUCK = {"fit.at_chance", "act.no_signal", "grad.vanishing", "signal.vanishing", "optim.lr_low"}
DEATH = STUCK | {"act.dead", "act.saturated"}
BLOW_UP = {"numeric.nonfinite", "loss.spike", "grad.exploding", "signal.exploding", "fit.at_chance"}
EXPLAINS = {
    "init.zero": DEATH | {"optim.lr_high"},
    "init.symmetric": DEATH | {"init.too_small", "optim.lr_high"},
    "loop.not_updated": {"fit.at_chance"},
    "reg.weight_decay_high": DEATH | {"optim.lr_high", "loss.spike"},
    "init.too_small": DEATH,
    "init.too_large": BLOW_UP | {"optim.lr_high", "act.saturated"},
    "optim.lr_high": DEATH | BLOW_UP,
    "optim.lr_low": {"fit.at_chance"},
    "optim.overclipped": {"fit.at_chance", "optim.lr_low"},
    "act.dead": STUCK,
    "act.saturated": STUCK,
    "grad.vanishing": {"fit.at_chance", "act.no_signal", "optim.lr_low"},
    "act.no_signal": {"fit.at_chance"},
    "sched.wrong_unit": {"optim.lr_low", "fit.at_chance"},
    "numeric.nonfinite": {"loss.spike"},
    "data.labels_random": {"fit.overfit", "data.split_shift"},
    "data.split_shift": {"fit.overfit"},
    "fit.at_chance": {"data.split_shift", "loss.spike"},
}


def ranked(found: Sequence[Finding]) -> list[Finding]:
    """Unexplained findings before explained ones, then worst first, then in the order given. What
    explains that nothing was learned is an error too."""
    alarms = {f.id for f in found if f.severity != INFO}
    explained = {symptom for cause in alarms for symptom in EXPLAINS.get(cause, ())}
    stuck = "fit.at_chance" in alarms

    def weighed(f: Finding) -> Finding:
        fatal = stuck and f.severity != INFO and "fit.at_chance" in EXPLAINS.get(f.id, ())
        return replace(f, severity=ERROR) if fatal and f.id not in explained else f

    return sorted(
        map(weighed, found), key=lambda f: (f.id in explained, SEVERITIES.index(f.severity))
    )
