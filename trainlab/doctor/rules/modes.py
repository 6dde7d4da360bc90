"""Rules on what training and evaluation mode make of the same batch (doctor/modes.py). Named by
conf/rule/."""

from math import inf

from trainlab.doctor.finding import ERROR, WARNING, Finding
from trainlab.doctor.history import Episode, History

# of 84 healthy digits nets with batch norm none came nearer than 0.7 of both limits at two looks
WORSE = 3.0  # times the loss of the other mode
APART = 0.05  # of the loss of a constant answer
RATE = 0.7  # of dropout; 0.5 is usual (Srivastava et al. 2014)
WRONG = (
    ("modes/live", "norm.mode", "train while it is evaluated", "norm=layer or norm=group"),
    ("modes/resting", "loop.mode", "are in evaluation mode while it trains", "groups.freeze=[]"),
)


def wrong_mode(h: History) -> list[Finding]:
    """Batch norm or dropout is in the mode of the other thing, at every look. Exact: no memory."""
    found = []
    for tag, name, what, remedy in WRONG:
        series = h.of(tag)
        if series and all(share > 0 for _, share in series):
            evidence = f"{series[-1][1]:.0%} of the batch norms and dropouts {what}"
            found.append(Finding(name, ERROR, "", series[0][0], evidence, remedy, tag))
    return found


def stale_statistics(h: History) -> list[Finding]:
    """Evaluation is far worse than training on the same batch, by running statistics; or these
    stand still while lr is not 0. Dropout works the other way round."""
    if h.of("modes/live") and not h.of("modes/statistics"):
        return []  # dropout alone
    remedy = "evaluate.statistics=full_pass or norm=layer"
    if episode := _apart(h, "modes/eval_loss", "modes/train_loss"):
        evidence = f"loss {h.near('modes/eval_loss', episode.since):.3g} in evaluation mode, "
        evidence += f"{h.near('modes/train_loss', episode.since):.3g} in training mode, same batch"
        tag = "modes/eval_loss"
        found = Finding("norm.mode", WARNING, "", episode.since, evidence, remedy, tag)
        return [found if episode.lasts else found.resolved()]
    sizes = h.of("modes/statistics")
    pairs = zip(sizes, sizes[1:], strict=False)
    still = [(s, a == b and (h.near("optim/lr", s) or 0) > 0) for (_, a), (s, b) in pairs]
    if len(still) < 2 or not all(bad for _, bad in still):
        return []
    evidence = f"the running statistics did not move in {len(still)} looks"
    return [Finding("norm.mode", WARNING, "", still[0][0], evidence, remedy, "modes/statistics")]


def dropout_high(h: History) -> list[Finding]:
    """The loss has not halved, and dropout leaves too few units, or training is far worse with it
    than evaluation without."""
    rate, looks = h.first("modes/dropout"), h.of("modes/train_loss")
    if rate == 0 or not looks or not h.not_halved():
        return []
    apart = _apart(h, "modes/train_loss", "modes/eval_loss")
    if (rate or 0) > RATE:
        since = looks[0][0]
    elif apart and apart.lasts:
        since = apart.since
    else:
        return []
    evidence = f"loss {h.near('modes/train_loss', since):.3g} with dropout, "
    evidence += f"{h.near('modes/eval_loss', since):.3g} without, on the same batch"
    evidence += f"; it leaves {1 - rate:.0%} of the units" if rate else ""
    remedy, tag = "model.dropout=0.2", "modes/train_loss"
    return [Finding("reg.dropout_high", ERROR, "", since, evidence, remedy, tag)]


def _apart(h: History, worse: str, better: str) -> Episode | None:
    """When the first of two losses on one batch was far above the second, after the first step:
    before it running statistics are 0 and 1. Left to learn is what validation lacks."""
    scale = h.chance if h.chance < inf else h.start
    pairs = zip(h.of(worse), h.of(better), strict=True)
    looks = [(step, a > WORSE * b and a - b > APART * scale) for (step, a), (_, b) in pairs if step]
    return h.episode(looks, splits=("val",))
