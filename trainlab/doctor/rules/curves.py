"""Rules on the curves: whether it learns, too fast, too slowly, too much. Named by conf/rule/."""

from math import inf, isfinite

from trainlab.doctor.finding import ERROR, WARNING, Finding
from trainlab.doctor.history import AT_CHANCE, BETTER, History, finite_median
from trainlab.errors import lower_lr

DIVERGED = 3.0  # times the loss at the start, or of the best constant answer
CRAWL = 1e-4  # norm(update) / norm(weight); 1e-3 is usual
LEAP = 0.1  # of the same
SPIKE = 3.0  # times the median of the rows before


def lr_too_high(h: History) -> list[Finding]:
    """Not finite, or over 3 times the loss at the start, or stuck at chance after it was there."""
    rows, reference = h.of("train/loss"), max(h.start, h.chance if h.chance < inf else 0.0)
    reference = reference if isfinite(reference) else inf
    broken = next((step for step, loss in rows if not isfinite(loss)), None)
    high = next((step for step, loss in rows if loss > DIVERGED * reference), None)
    leaps = [(step, finite_median(p.values())) for step, p in h.profiles("update_ratio")]
    if leaps and leaps[0][0] == 1:
        leaps[0] = (1, leaps[0][1] * h.warmup_ratio())  # as it would be without warm-up
    leap = next((step for step, ratio in leaps if ratio > LEAP), None)
    if broken is not None and broken <= 1:
        return []  # before any update: see numeric.nonfinite
    if broken is not None:
        since, evidence = broken, f"the loss is not finite at step {broken}"
    elif high is not None and h.unlearned(rows[-1][0]):
        since = high
        evidence = f"loss {dict(rows)[high]:.3g}, {reference:.3g} at the start"
        if h.at_chance(rows[-1][0]):
            evidence += f"; now {rows[-1][1]:.3g} and no better than a constant answer"
    elif leap is not None and rows and h.at_chance(rows[-1][0]):
        since = leap
        evidence = f"an update at full lr is {dict(leaps)[leap]:.2g} of the weights; usual: 1e-3"
    else:
        return []
    lr = h.base_lr
    remedy = f"{lower_lr(lr)} or clip.norm=1" if lr else "clip.norm=1"
    return [Finding("optim.lr_high", ERROR, "", since, evidence, remedy, "train/loss")]


def lr_too_low(h: History) -> list[Finding]:
    """Updates far below 1e-3 of the weights while the loss hardly moves, away from warm-up and the
    end of a decay. Weights that do not move at all (frozen) are left out unless all are."""
    looks = []
    for step, profile in h.profiles("update_ratio"):
        if h.full_speed(step):
            moved = [ratio for ratio in profile.values() if ratio > 0]
            looks.append((step, finite_median(moved) if moved else 0.0))
    episode = h.episode((step, ratio < CRAWL) for step, ratio in looks)
    rows = h.of("train/loss")
    if episode is None or not episode.lasts or len(rows) < 2:
        return []
    first, last = max(rows[0][1], h.start if h.start < inf else 0.0), rows[-1][1]
    if not (last > min(0.9 * first, h.chance) or h.at_chance(rows[-1][0])):
        return []
    ratio = dict(looks)[episode.since]
    evidence = f"an update is {ratio:.1g} of the weights (usual: 1e-3), loss {first:.3g} to "
    evidence += f"{last:.3g}"
    remedy = f"optim.lr={h.base_lr * min(1e-3 / max(ratio, 1e-9), 1e6):.1g}"
    severity = ERROR if ratio < CRAWL / 10 else WARNING
    tag = "update_ratio"
    return [Finding("optim.lr_low", severity, "", episode.since, evidence, remedy, tag)]


def not_learning(h: History) -> list[Finding]:
    """The last 3 rows are at chance, in loss and accuracy, with most of the training at full
    lr."""
    rows = h.of("train/loss")
    stuck = [(step, loss >= AT_CHANCE * h.chance and h.at_chance(step)) for step, loss in rows]
    if len(rows) < 3 or not all(bad for _, bad in stuck[-3:]) or not h.full_speed(rows[1][0]):
        return []
    since = max((step for step, bad in stuck if not bad), default=0)
    since = next(step for step, bad in stuck if step > since)
    evidence = f"loss {rows[-1][1]:.3g}, a constant answer has {h.chance:.3g}"
    evidence += f"; {h.measure} {h.last(f'train/{h.measure}'):.2f}"
    remedy = "optim=adam or init=he_normal"
    return [Finding("fit.at_chance", ERROR, "", since, evidence, remedy, "train/loss")]


def loss_spike(h: History) -> list[Finding]:
    """3 times the median of the 5 rows before, and not small beside the best constant answer."""
    rows = [(step, loss) for step, loss in h.of("train/loss") if isfinite(loss)]
    floor = 0.3 * (h.chance if h.chance < inf else h.start)
    for place in range(2, len(rows)):
        step, loss = rows[place]
        usual = finite_median(v for _, v in rows[max(place - 5, 0) : place])
        if loss > max(SPIKE * usual, floor):
            evidence = f"loss {loss:.3g}, {usual:.3g} in the rows before"
            lr = h.base_lr
            remedy = f"clip.norm=1 or optim.lr={lr / 3:.2g}" if lr else "clip.norm=1"
            found = Finding("loss.spike", WARNING, "", step, evidence, remedy, "train/loss")
            passed = min(v for _, v in rows[place:]) < 1.2 * usual
            return [found.resolved() if passed else found]
    return []


def overfitting(h: History) -> list[Finding]:
    """A trend, not two epochs: for 5 evaluations or more after its best, the validation loss has
    risen on the whole, by 40 % and 0.1 of chance, while the training loss fell."""
    rows = [(step, loss) for step, loss in h.of("val/loss") if isfinite(loss)]
    if len(rows) < 6:
        return []
    best, place = min((loss, place) for place, (_, loss) in enumerate(rows))
    since, later = rows[place][0], [loss for _, loss in rows[place:]]
    now = finite_median(later[-3:])
    scale = h.chance if h.chance < inf else h.start
    rising = sum(b > a for a, b in zip(later, later[1:], strict=False)) > 0.5 * (len(later) - 1)
    then, train = h.near("train/loss", since), h.last("train/loss")
    worse = now > 1.4 * best and now - best > 0.1 * scale
    if len(later) < 6 or not (rising and worse) or train is None or not train < then:
        return []
    evidence = f"validation loss {best:.3g} at step {since}, now {now:.3g}, training {train:.3g}"
    remedy = "early_stop.patience=5 or penalty.l2=0.001 or augment=noise"
    return [Finding("fit.overfit", WARNING, "", since, evidence, remedy, "val/loss")]


def split_shift(h: History) -> list[Finding]:
    """From the first evaluations on, validation is far from training: the splits are not the same
    thing, or not preprocessed alike. Overfitting takes longer."""
    looks = []
    begun = next((step for step, _ in h.of("train/loss")), inf)
    for step, loss in [row for row in h.of("val/loss") if row[0] >= begun][:3]:
        train, hits = h.before("train/loss", step), h.before(f"train/{h.measure}", step)
        accuracy = h.before(f"val/{h.measure}", step)
        lowest = min(v for at, v in h.of("val/loss") if at <= step)  # it never was as low
        apart = accuracy < hits - 0.3 or lowest - train > 0.5 * h.chance
        looks.append((step, loss, train, lowest > 2 * train and apart))
    if sum(look[3] for look in looks) < 2:
        return []
    since, loss, train, _ = next(look for look in looks if look[3])
    evidence = f"validation loss {loss:.3g}, training {train:.3g}, from the start"
    remedy = "preprocess.test=null or data.fold=0"
    return [Finding("data.split_shift", WARNING, "", since, evidence, remedy, "val/loss")]


def labels_random(h: History) -> list[Finding]:
    """It learns the training labels, by heart, and validation stays at chance."""
    looks = [(step, accuracy) for step, accuracy in h.of(f"val/{h.measure}")][-3:]
    chance, hits = h.first(f"chance/{h.measure}"), h.last(f"train/{h.measure}")
    if len(looks) < 3 or None in (chance, hits) or hits < chance + 0.15:
        return []
    if max(accuracy for _, accuracy in looks) > chance + BETTER:
        return []
    step, accuracy = looks[0]
    evidence = f"training {h.measure} {hits:.2f}, validation {accuracy:.2f}, chance {chance:.2f}"
    remedy = "data.label_noise=0 or augment=none"
    return [Finding("data.labels_random", ERROR, "", step, evidence, remedy, f"val/{h.measure}")]
