"""Rules on what training mode and evaluation mode make of the same batch (doctor/modes.py)."""

from math import inf

from trainlab.doctor.finding import ERROR, WARNING, Finding
from trainlab.doctor.history import Episode, History

# of 84 healthy digits nets with batch norm none came nearer than 0.7 of both limits at two looks
WORSE = 3.0  # times the loss of the other mode
APART = 0.05  # of the loss of a constant answer
RATE = 0.7  # of dropout; 0.5 is usual (Srivastava et al. 2014)


def wrong_mode(h: History) -> list[Finding]:
    """Batch norm or dropout is in the mode of the other thing, at every look. Exact: no memory."""
    found = []
    for tag, name, what, remedy in (
        ("modes/live", "norm.mode", "train while it is evaluated", "norm=layer or norm=group"),
        (
            "modes/resting",
            "loop.mode",
            "are in evaluation mode while it trains",
            "groups.freeze=[]",
        ),
    ):
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
    looks = [
        (step, calm, h.before("modes/train_loss", step))
        for step, calm in h.of("modes/eval_loss")
        if step > 0
    ]  # they start at 0 and 1
    scale = h.chance if h.chance < inf else h.start
    bad = ((s, calm > WORSE * loss and calm - loss > APART * scale) for s, calm, loss in looks)
    if episode := h.episode(bad):
        calm, loss = next(look[1:] for look in looks if look[0] == episode.since)
        evidence = f"loss {calm:.3g} in evaluation mode, {loss:.3g} in training mode, on the same "
        return [_told(episode, evidence + "batch", remedy, "modes/eval_loss")]
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
    rate, begun = h.first("modes/dropout"), h.first("modes/train_loss")
    if rate == 0 or begun is None or not h.slow():
        return []
    scale = h.chance if h.chance < inf else h.start
    looks = [
        (step, loss, h.before("modes/eval_loss", step)) for step, loss in h.of("modes/train_loss")
    ]
    apart = h.episode(
        (s, loss > WORSE * calm and loss - calm > APART * scale) for s, loss, calm in looks[1:]
    )
    if not ((rate or 0) > RATE or (apart and apart.lasts)):
        return []
    _, loss, calm = looks[0] if (rate or 0) > RATE else looks[-1]
    evidence = f"loss {loss:.3g} with dropout, {calm:.3g} without, on the same batch"
    evidence += f"; it leaves {1 - rate:.0%} of the units" if rate else ""
    since = looks[0][0] if (rate or 0) > RATE else apart.since
    return [
        Finding(
            "reg.dropout_high", ERROR, "", since, evidence, "model.dropout=0.2", "modes/train_loss"
        )
    ]


def _told(episode: Episode, *rest: str) -> Finding:
    found = Finding("norm.mode", WARNING, "", episode.since, *rest)
    return found if episode.lasts else found.over()
