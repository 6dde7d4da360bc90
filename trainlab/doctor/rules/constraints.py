"""Rules on what holds the weights back: clipping, decay, schedule, weights that stand still or are
all alike. Named by conf/rule/."""

from math import isfinite

from trainlab.doctor.finding import ERROR, WARNING, Finding
from trainlab.doctor.history import AT_CHANCE, History
from trainlab.optim.lr_curve import ends_early

CLIPPED = 0.5  # of the steps; above it the limit is the lr (Godbole et al. 2023, Tuning Playbook)
GONE = 0.3  # of the weights' norm


def clipping(h: History) -> list[Finding]:
    """Most steps are clipped, row after row."""
    series = h.of("optim/clipped")
    episode = h.episode(((step, share > CLIPPED) for step, share in series), 3, 4)
    if episode is None:
        return []
    evidence = f"{dict(series)[episode.since]:.0%} of the steps were clipped"
    remedy = f"optim.lr={h.base_lr / 3:.2g} clip.norm=null clip.value=null clip.adaptive=null"
    tag = "optim/clipped"
    severity = ERROR if h.not_halved() and h.at_chance(series[-1][0]) else WARNING
    found = Finding("optim.overclipped", severity, "", episode.since, evidence, remedy, tag)
    return [found if episode.lasts and h.not_halved() else found.resolved()]


def decay_dominates(h: History) -> list[Finding]:
    """The penalty outweighs the loss, or the weights shrink, while the loss stays at chance."""
    rows = h.of("train/loss")
    if not rows or not rows[-1][1] > AT_CHANCE * min(h.chance, h.start):
        return []
    for step, term in h.of("penalty/l2"):
        loss = h.near("train/loss", step)
        if loss is not None and term > loss:
            evidence = f"penalty {term:.3g} beside a loss of {loss:.3g}"
            return [_decay(step, evidence, "penalty.l2=0.0001", "penalty/l2")]
    norms = []
    for step, profile in h.profiles("weight_norm"):
        norms.append((step, sum(v for name, v in profile.items() if name.endswith("weight"))))
    if len(norms) < 2 or not norms[0][1] > 0:
        return []
    small = next((step for step, norm in norms if norm < GONE * norms[0][1]), None)
    if small is None or not norms[-1][1] < GONE * norms[0][1]:
        return []
    evidence = f"the weights shrank from {norms[0][1]:.3g} to {norms[-1][1]:.3g}"
    return [_decay(small, evidence, "optim.weight_decay=0.0001 penalty.l2=0", "weight_norm")]


def _decay(step: int, evidence: str, remedy: str, tag: str) -> Finding:
    return Finding("reg.weight_decay_high", ERROR, "", step, evidence, remedy, tag)


def schedule_ends_early(h: History) -> list[Finding]:
    """lr falls below 1 % of its peak within the first fifth of the training, and stays there."""
    curve = h.curves.get("schedule/lr", [])
    share = ends_early(curve)
    if share is None or not h.unlearned(2**62):
        return []
    evidence = f"after {share:.0%} of the training lr stays below 1 % of its peak"
    remedy = "schedule=warmup_cosine or schedule=constant"
    return [Finding("sched.wrong_unit", WARNING, "", 0, evidence, remedy, "schedule/lr")]


def not_updated(h: History) -> list[Finding]:
    """A weight that has a gradient and does not move, while others do. A frozen one has none."""
    moves = h.layers("update_ratio")
    others = {s for series in moves.values() for s, ratio in series if ratio > 0}
    for layer, series in moves.items():
        grads = dict(h.of(f"weight_gradient_norm/{layer}"))
        looks = [
            (step, ratio == 0 and grads.get(step, 0.0) > 0)
            for step, ratio in series
            if step in others and h.full_speed(step) and isfinite(ratio)
        ]
        if len(looks) >= 2 and all(still for _, still in looks):
            evidence = f"it has a gradient and did not move in {len(looks)} looks; others did"
            tag = f"update_ratio/{layer}"
            remedy = "groups.lr=[] groups.freeze=[]"
            name, since = "loop.param_not_updated", looks[0][0]
            return [Finding(name, ERROR, layer, since, evidence, remedy, tag)]
    return []


def constant_weights(h: History) -> list[Finding]:
    """All weights of most layers are one number at the first look, so that the units of a layer
    stay alike. One such layer (a head of zeros) is a choice."""
    seen = {tag.partition("/")[2]: r for tag, r in h.ranges.items() if tag.startswith("weight/")}
    alike = [layer for layer, (_, low, high) in seen.items() if low == high]
    if 2 * len(alike) <= len(seen) or not h.unlearned(2**62):
        return []
    layer, name = alike[0], "init.zero" if seen[alike[0]][1] == 0 else "init.symmetric"
    step, value, _ = seen[layer]
    evidence = f"every weight is {value:.3g}, in {len(alike)} of {len(seen)} layers"
    tag = f"weight/{layer}"
    return [Finding(name, ERROR, layer, step, evidence, "init=he_normal or init=orthogonal", tag)]
