"""Which finding explains which: causes are shown first, what follows from them is folded."""

from collections.abc import Sequence
from dataclasses import replace

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
SYMPTOMS = DEATH | BLOW_UP | GAP | RATES
LABELS = {"data.label_noise", "data.noisy_input", "data.renumbered", "loss.mismatch"}
# no such fault leaves the curves, the sizes or the probes of a network alone
ROOTS = """
    data.nonfinite data.constant_input data.unnormalised data.double_norm data.misaligned
    graph.input_ignored loss.sign loss.penalty loop.no_zero_grad loop.param_not_updated loop.mode
    arch.output_activation arch.double_softmax
""".split()  # noqa: SIM905
EXPLAINS = dict.fromkeys(ROOTS, SYMPTOMS | SIZES | LABELS) | {
    "graph.input_ignored": SYMPTOMS | SIZES | LABELS | {"arch.linear"},
    "data.constant_input": SYMPTOMS | SIZES | LABELS | {"data.conflicting_labels"},
    "init.zero": SYMPTOMS | SIZES | {"init.symmetric", "arch.linear", "loop.param_not_updated"},
    "init.symmetric": SYMPTOMS | SIZES,
    "graph.batch_leak": GAP | {"norm.mode", "loop.mode"},
    "graph.wrong_gradient": SYMPTOMS,
    "arch.linear": STUCK | BLOW_UP | SIZES | {"optim.lr_high"},
    "loss.sum_reduction": DEATH | BLOW_UP | RATES | {"data.split_shift"},
    "loss.mismatch": STUCK | BLOW_UP,
    "data.not_shuffled": DEATH | BLOW_UP | GAP | {"optim.lr_high", "loop.seed_reset"},
    "data.imbalance": GAP | {"fit.at_chance", "data.label_noise", "data.leak"},
    "data.conflicting_labels": GAP | {"data.label_noise", "fit.cannot_overfit", "data.leak"},
    "data.labels_random": FAR_OFF | {"data.label_noise", "fit.at_chance"} | {"act.dead"},
    "data.renumbered": GAP | {"data.labels_random", "loss.mismatch"},
    "data.label_noise": FAR_OFF,
    "data.noisy_input": GAP | {"data.label_noise", "init.too_large", "act.dead"},
    "data.leak": {"fit.overfit"},
    "loop.seed_reset": GAP,
    "norm.mode": FAR_OFF | {"loss.spike", "optim.noisy"},
    "reg.weight_decay_high": DEATH | {"optim.lr_high", "loss.spike", "fit.undertrained"},
    "reg.dropout_high": DEATH | BLOW_UP | GAP | {"optim.lr_high", "init.too_large"},
    "init.too_small": DEATH | {"init.mismatch", "optim.lr_high"},
    "init.too_large": BLOW_UP | RATES | {"act.saturated", "act.dead", "init.mismatch"},
    "init.mismatch": DEATH | BLOW_UP | {"optim.lr_high"},
    "grad.exploding": BLOW_UP - {"grad.exploding"} | {"optim.lr_high", "act.saturated"},
    "optim.lr_high": DEATH | BLOW_UP | {"optim.overclipped"},
    "optim.lr_low": {"fit.at_chance", "fit.undertrained", "fit.cannot_overfit"},
    "optim.overclipped": STUCK - {"grad.vanishing"},
    "optim.eps": STUCK - {"grad.vanishing"},
    "optim.few_updates": {"fit.at_chance", "fit.undertrained", "optim.lr_low"},
    "sched.wrong_unit": {"optim.lr_low", "fit.at_chance", "fit.undertrained"},
    "act.dead": STUCK,
    "act.saturated": STUCK | {"act.dead"},
    "grad.vanishing": STUCK - {"grad.vanishing"},
    "act.no_signal": {"fit.at_chance", "fit.cannot_overfit"},
    "numeric.nonfinite": {"loss.spike"},
    "data.split_shift": {"fit.overfit"},
    "fit.cannot_overfit": {"fit.at_chance", "fit.undertrained"},
    "fit.at_chance": {"data.split_shift", "loss.spike", "fit.undertrained"},
    "optim.noisy": {"optim.lr_high", "loss.spike", *DEATH, *BLOW_UP - {"optim.noisy"}},
}  # fmt: skip


def ranked(found: Sequence[Finding]) -> list[Finding]:
    """Unexplained findings before explained ones, then worst first, then in the order given. Of two
    that explain each other the earlier one is the cause. What explains that nothing was learned is
    an error too."""
    alarms = [f for f in found if f.severity != INFO]

    def follows(f: Finding, cause: Finding) -> bool:
        mutual = cause.id in EXPLAINS.get(f.id, ()) and f.since_step <= cause.since_step
        return f.id in EXPLAINS.get(cause.id, ()) and not mutual

    causes = {f.id: next((c.id for c in alarms if follows(f, c)), "") for f in found}
    if alarms and all(causes[f.id] for f in alarms):  # in a circle: the earliest began it
        causes[min(alarms, key=lambda f: f.since_step).id] = ""
    stuck = any(f.id == "fit.at_chance" for f in alarms)

    def weighed(f: Finding) -> Finding:
        f = replace(f, follows=causes[f.id])
        fatal = stuck and f.severity != INFO and "fit.at_chance" in EXPLAINS.get(f.id, ())
        return replace(f, severity=ERROR) if fatal and not f.follows else f

    return sorted(
        map(weighed, found), key=lambda f: (f.follows != "", SEVERITIES.index(f.severity))
    )
