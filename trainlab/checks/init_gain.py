"""Do the initial weights fit the activation, so that the signal keeps its size over depth?
Named by conf/check/. B batch, U units, L activation calls."""

import math
import statistics
from functools import partial

import torch
from torch import Tensor

from trainlab.checks import PASS, SKIPPED, WARN, Fresh, Verdict
from trainlab.checks.tools import images, no_dropout
from trainlab.observe.capture import Layer, recorded_layers
from trainlab.training.modules import matrices, norms

IMAGES = 64
FITS = 1.25  # factor per layer that still counts as a match
SHALLOW = 8.0  # factor over all layers that is harmless, so a shallow net may be somewhat off
SETTLES = 2.5  # gain over needed gain that is healthy while the signal keeps its size
FAR = 3.0  # more than any initialisation made for another activation is off by
OFF = 0.01  # output rms for an input of rms 1 below which units count as dead
CHANCE = 2.0  # standard errors of a mean over U units; see `_limit`
ADVICE = "init=he_normal (with init.gain=auto), or norm=batch"


def init_gain(fresh: Fresh) -> Verdict:
    """Compare the gain of the initial weights with the gain that the activation f needs.

    With pre-activations z: the weights have gain rms(z) / rms(their input); f needs gain
    1 / rms(f(z)) at rms(z) = 1, measured on the z at hand. PASS where the two agree on average over
    the hidden layers, or where z keeps its size although the gain is somewhat off (Xavier with tanh
    settles by itself; a gain far off has saturated it). Also PASS with norm layers between the
    activations, which reset the size. The head is judged by initial_loss. Glorot and Bengio 2010;
    He et al. 2015.
    """
    trainer, verdict = fresh(), partial(Verdict, "init_gain")
    model = trainer.model
    x, _ = images(trainer, IMAGES)
    with torch.no_grad(), no_dropout(model), recorded_layers(model) as layers:
        model(x)
    calls = [layer for layer in layers if layer.function]
    if not calls:
        return verdict(SKIPPED, "the model calls no activation")
    count = len(norms(model))
    if count >= max(len(calls) - 1, 1):
        return verdict(
            PASS, f"{count} norm layers set the size of the signal, whatever the weights are"
        )
    with torch.no_grad():
        entered, before, left, passed = _moments(x, layers, calls)
    if not all(0 < z < math.inf for z in (*entered, *before, *left)):
        bad = [c.name for c, z in zip(calls, entered, strict=True) if not 0 < z < math.inf]
        where = f"into {bad[0]}" if bad else "into the first layer, or out of a later one,"
        saw = f"the signal {where} is 0 or not finite"
        cause = "act.dead" if all(map(math.isfinite, (*entered, *left))) else "init.too_large"
        blank = not any(p.any() for p in matrices(model).values())
        return verdict(
            WARN, saw, "a finite signal other than 0", ADVICE, cause="init.zero" if blank else cause
        )
    change = _mean(a / b for a, b in zip(entered, before, strict=True))
    gain = _mean(a / b for a, b in zip(entered, left, strict=True))
    needs = _mean(1 / max(f, 1e-9) for f in passed)
    limit, names = _limit(calls), sorted({c.name.partition(".")[2] for c in calls})
    ratio, moved = (max(r, 1 / r) for r in (gain / needs, change))
    steady = moved <= limit or (moved ** len(calls) <= SHALLOW and gain / needs <= SETTLES)
    verb = "keeps its size" if steady else f"{'shrinks' if change < 1 else 'grows'} {change:.2g}"
    saw = f"the signal {verb}{'' if steady else ' times a layer'}; "
    saw += f"{', '.join(names)} needs gain {needs:.2f}, this init has {gain:.2f}"
    expected = f"a gain within {SETTLES if steady else limit:.2f} times that"
    if ratio <= (SETTLES if moved <= limit else limit) or (steady and gain < needs):
        return verdict(PASS, saw, expected)
    off = gain / needs
    by_weights = float(_weights(list(matrices(model).values()))) / needs
    cause = (
        "init.mismatch" if 1 / FAR < off < FAR else f"init.too_{'large' if off > 1 else 'small'}"
    )
    if min(passed) < OFF:
        cause = "act.dead"
    elif not 1 / FAR < off < FAR and 1 / FAR < by_weights < FAR:  # not the weights' fault
        cause = "grad.exploding" if off > 1 else "grad.vanishing"
    return verdict(WARN, saw, expected, ADVICE, cause=cause)


def _moments(x: Tensor, layers: list[Layer], calls: list[Layer]) -> list[list[float]]:
    """Four lists (L,): rms of z; of the previous layer's z; of the previous layer's output (both x
    for the first); and of f(z) at rms(z) = 1. One transfer to the host."""
    at = [layers.index(call) for call in calls]
    previous = [layers[i - 1] if i else None for i in at]
    rows = [
        [call.x for call in calls],
        [x if layer is None else layer.x for layer in previous],
        [x if layer is None else layer.out for layer in previous],
        [call.again(call.x / _rms(call.x)) for call in calls],
    ]
    return torch.stack([torch.stack([_rms(t) for t in row]) for row in rows]).tolist()


def _weights(weights: list[Tensor]) -> float:
    """Gain of the weights alone: rms * sqrt(fan_in), median over layers."""
    return statistics.median(_rms(w.detach()) * math.sqrt(w[0].numel()) for w in weights)


def _rms(values: Tensor) -> Tensor:
    return values.float().square().mean().sqrt()


def _mean(ratios) -> float:
    """The geometric mean."""
    logs = [math.log(r) for r in ratios]
    return math.exp(sum(logs) / len(logs))


def _limit(calls: list[Layer]) -> float:
    """FITS widened by sampling error: the mean square of U random units has a relative standard
    error of sqrt(2 / U), its root half of that."""
    error = math.sqrt(sum(1 / (2 * call.x.shape[1]) for call in calls)) / len(calls)
    return FITS * math.exp(CHANCE * error)
