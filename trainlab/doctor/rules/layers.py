"""Rules on what flows through the layers: activations forward, gradients backward. Named by
conf/rule/."""

from math import inf, isfinite, log10

from trainlab.doctor.finding import ERROR, WARNING, Finding
from trainlab.doctor.history import Episode, History

# between first and last layer; 45 healthy digits nets stayed within 1.3, 8 sigmoids reach 2.6
DECADES = 3.0  # of what samples differ by
FADED = 2.0  # of the gradients
GROWTH = 2.0  # decades of growth towards the input (gradients) or the output (activations)
CUT = 1e-30  # below it a float32 gradient has underflowed: counts as exactly 0
# Limits of the share of elements with a slope below 5 % of the largest. Flat on both sides: half,
# or what is flat of inputs so wide that tanh is flat for half of them (75 % for hardtanh, where
# healthy runs reach 68 %). A ReLU is flat for half of all usual inputs: above SPARSE of them, to be
# off is no fault.
TWO_SIDED = 0.5
ONE_SIDED = 0.85
SPARSE = 0.4
DEAD = 0.75  # of a layer's units, over a whole pass; healthy small layers reach 0.62
GONE = 0.95  # of the same: hardly anything passes
STILL = 1e-2  # std of a unit over the samples / std over all elements
INITIAL = {"signal.vanishing": "init.too_small", "signal.exploding": "init.too_large"}
SMOOTH = "activation=elu or norm=batch or init=xavier_normal"


def nonfinite(h: History) -> list[Finding]:
    """The first layer, in the earliest row, whose figures are not finite."""
    seen = []
    for quantity in ("activation_mean", "gradient_norm", "weight_norm", "weight_gradient_norm"):
        for layer, series in h.layers(quantity).items():
            bad = next((step for step, value in series if not isfinite(value)), None)
            if bad is not None:
                seen.append((bad, len(seen), quantity, layer))
    if not seen:
        return []
    step, _, quantity, layer = min(seen)
    early = step <= 2  # before an update could have done it
    remedy = "init=he_normal or preprocess=standardize" if early else "clip.norm=1"
    evidence = f"{quantity} is not finite, and is the first one that is not"
    tag = f"{quantity}/{layer}"
    return [Finding("numeric.nonfinite", ERROR, layer, step, evidence, remedy, tag)]


def decades(profile: dict[str, float]) -> float:
    """log10(first / last) of a profile over depth. Exact zeros: -inf where the first layer gets
    nothing, 0.0 where the last one has nothing either, or where a figure is not finite."""
    values = list(profile.values())
    if len(values) < 3 or not all(map(isfinite, values)) or values[-1] <= CUT:
        return 0.0
    return -inf if values[0] <= CUT else log10(values[0] / values[-1])


def vanishing_gradient(h: History) -> list[Finding]:
    """The gradient in the first activation is 2 decades below that in the logits, or 0."""
    return _profile(
        h, "gradient_norm", "grad.vanishing", lambda d: d < -FADED, "activation=elu or norm=batch"
    )


def exploding_gradient(h: History) -> list[Finding]:
    """It is 2 decades above."""
    return _profile(
        h, "gradient_norm", "grad.exploding", lambda d: d > GROWTH, "init=he_normal or norm=batch"
    )


def vanishing_signal(h: History) -> list[Finding]:
    """What samples differ by shrinks by 3 decades from the first layer to the logits. At the first
    look it is the initial weights, which a ratio of gradients does not see."""
    return _profile(
        h, "activation_unit_std", "signal.vanishing", lambda d: d > DECADES,
        "init=he_normal or norm=batch",
    )  # fmt: skip


def exploding_signal(h: History) -> list[Finding]:
    """The activations grow by 2 decades; at the first look, because of the initial weights."""
    return _profile(
        h, "activation_std", "signal.exploding", lambda d: -inf < d < -GROWTH,
        "init=he_normal or norm=batch",
    )  # fmt: skip


def _profile(h: History, quantity: str, name: str, bad, remedy: str) -> list[Finding]:
    looks = [(step, profile, decades(profile)) for step, profile in h.profiles(quantity)]
    found = h.episode((step, bad(d)) for step, _, d in looks)
    if found is None:
        return []
    profile, d = next((p, d) for step, p, d in looks if step == found.since)
    first, *_, last = profile
    name = INITIAL.get(name, name) if found.since == looks[0][0] else name
    evidence = f"{quantity} {profile[first]:.2g} in {first}, {profile[last]:.2g} in {last}"
    evidence += ": cut off" if d == -inf else f": {d:+.1f} decades from first to last"
    return [_told(found, name, WARNING, first, evidence, remedy, f"{quantity}/{first}")]


def saturation(h: History) -> list[Finding]:
    """Most elements lie where the activation is flat. How flat it is, and on how many sides, was
    measured from its slope at the first step. Where it is flat on one side only that is sparse, and
    no alarm unless the loss has not even halved."""
    found = []
    for layer, series in h.layers("activation_saturated").items():
        facts = [h.first(f"activation_flat_{fact}/{layer}") for fact in ("sides", "usual", "wide")]
        if None in facts:
            continue
        sides, usual, wide = facts
        if sides < 1 or usual > SPARSE:
            continue
        both = sides > 1
        limit = max(TWO_SIDED, wide) if both else ONE_SIDED
        if episode := h.episode((step, share > limit) for step, share in series):
            share, kind = dict(series)[episode.since], layer.partition(".")[2]
            evidence = f"{share:.0%} of {kind} is flat (slope below 5 %), usual is < {limit:.0%}"
            remedy = "init=xavier_normal or norm=batch" if both else "init=he_normal"
            tag = f"activation_saturated/{layer}"
            one = _told(episode, "act.saturated", WARNING, layer, evidence, remedy, tag)
            found.append(one if both or h.not_halved() else one.as_info())
    return _worst(found)


def dead_units(h: History) -> list[Finding]:
    """Units that no sample of a whole pass moves. A layer that is not finite is undefined (nan),
    not 0 % dead. A network may learn well with many of them: no alarm up to GONE of a layer unless
    the loss has not even halved."""
    found = []
    for layer, series in h.layers("activation_dead").items():
        known = [(step, share) for step, share in series if isfinite(share)]
        if episode := h.episode((step, share >= DEAD) for step, share in known):
            share = dict(known)[episode.since]
            severity = ERROR if share > GONE else WARNING
            evidence = f"{share:.0%} of the units are flat on every validation sample"
            remedy = "activation=leaky_relu or activation=elu"
            if h.base_lr:
                remedy += f" or optim.lr={h.base_lr / 10:.2g}"
            tag = f"activation_dead/{layer}"
            one = _told(episode, "act.dead", severity, layer, evidence, remedy, tag)
            found.append(one if severity == ERROR or h.not_halved() else one.as_info())
    return _worst(found)


def dead_signal(h: History) -> list[Finding]:
    """A healthy std over all elements, but no unit differs between samples: biases, no signal."""
    found = []
    pooled = h.layers("activation_std")
    for layer, series in h.layers("activation_unit_std").items():
        whole = dict(pooled.get(layer, []))
        looks = [(step, std, whole.get(step, 0.0)) for step, std in series]
        flat = ((step, whole > 1e-6 and std < STILL * whole) for step, std, whole in looks)
        if episode := h.episode(flat):
            std, whole = next(look[1:] for look in looks if look[0] == episode.since)
            evidence = f"std {whole:.2g} over all elements, {std:.2g} of a unit over the samples"
            tag = f"activation_unit_std/{layer}"
            found.append(_told(episode, "act.no_signal", WARNING, layer, evidence, SMOOTH, tag))
    return _worst(found)


def _told(episode: Episode, name: str, severity: str, layer: str, *rest: str) -> Finding:
    finding = Finding(name, severity, layer, episode.since, *rest)
    return finding if episode.lasts else finding.resolved()


def _worst(found: list[Finding]) -> list[Finding]:
    """One finding for a net: what lasts, then the earliest, then the lowest layer."""
    order = ("error", "warning", "info").index
    return sorted(found, key=lambda f: (order(f.severity), f.since_step, f.layer))[:1]
