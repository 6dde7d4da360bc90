"""Rules on the end of a training, and on what its curves say together. Named by conf/rule/."""

from math import inf

from trainlab.doctor.finding import ERROR, WARNING, Finding
from trainlab.doctor.history import AT_CHANCE, History

LEARNED = 0.9  # accuracy above which a training was long enough
FALLS = 0.1, 0.05  # of the loss from one row to the next, in training and in validation
APART = 0.2  # accuracy
FEW = 100  # steps in all that are not worth calling a training
EVEN = 0.5  # accuracy of a constant answer above which accuracy says little


def undertrained(h: History) -> list[Finding]:
    """The training is over, had hardly begun or lowered the loss strongly to its last rows."""
    train, val = h.of("train/loss"), h.of("val/loss")
    if not h.of("best/val_loss") or not train:
        return []
    right = [h.last(f"{split}/{h.measure}") or 0.0 for split in ("train", "val")]
    known = train[-1][1] < AT_CHANCE * min(h.chance, h.start)
    if max(right) > LEARNED or not (known or train[-1][0] < FEW):
        return []
    if train[-1][0] < FEW:
        evidence = f"{train[-1][0]} steps in all; {h.measure} {max(right):.2f}"
        return [Finding("fit.undertrained", WARNING, "", 0, evidence, "epochs=30", "train/loss")]
    if len(train) < 2 or len(val) < 2:
        return []
    steps = [(a, b) for (_, a), (_, b) in (train[-2:], val[-2:])]
    if not all(b < (1 - f) * a for (a, b), f in zip(steps, FALLS, strict=True)):
        return []
    (a, b), since = steps[0], train[-2][0]
    evidence = f"the loss still fell from {a:.3g} to {b:.3g} in the last {train[-1][0] - since} "
    evidence += f"steps; {h.measure} {max(right):.2f}"
    return [Finding("fit.undertrained", WARNING, "", since, evidence, "epochs=100", "train/loss")]


def by_heart(h: History) -> list[Finding]:
    """Nothing is left to learn in training, validation is far below, and no longer gets better."""
    looks = h.of(f"val/{h.measure}")[-3:]
    hits, train, val = h.last(f"train/{h.measure}"), h.last("train/loss"), h.of("val/loss")[-3:]
    if len(looks) < 3 or None in (hits, train) or hits < 0.98 or not train < 0.25 * val[-1][1]:
        return []
    if max(v for _, v in looks) > hits - APART or val[-1][1] < 0.98 * val[0][1]:
        return []
    evidence = f"{h.measure} {hits:.2f} in training, {looks[-1][1]:.2f} in validation"
    remedy = "penalty.l2=0.001 or model.dropout=0.3 or early_stop.patience=5"
    return [Finding("fit.overfit", WARNING, "", looks[0][0], evidence, remedy, f"val/{h.measure}")]


def metric_apart(h: History) -> list[Finding]:
    """The loss falls far below that of a constant answer, and accuracy does not move."""
    rows, chance = h.of("train/loss"), h.first(f"chance/{h.measure}")
    if chance is None or chance > EVEN or h.chance == inf:
        return []
    low = [step for step, loss in rows if loss < 0.3 * h.chance]
    if len(low) < 3 or not all(h.at_chance(step) for step in low):
        return []
    evidence = f"loss {rows[-1][1]:.3g}, a constant answer has {h.chance:.3g}; {h.measure} "
    evidence += f"{h.last(f'train/{h.measure}'):.2f}"
    remedy = "loss=cross_entropy preflight=full"
    name, tag = "metric.inconsistent", f"train/{h.measure}"
    return [Finding(name, ERROR, "", low[0], evidence, remedy, tag)]
