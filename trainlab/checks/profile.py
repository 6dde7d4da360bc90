"""Do signal and gradient keep their size through the layers? Named by
conf/check/. B batch, U units, L activation calls."""

import math
from functools import partial

import torch
from torch import Tensor

from trainlab.checks import PASS, SKIPPED, WARN, Fresh, Verdict
from trainlab.checks.init_gain import init_gain
from trainlab.checks.tools import images, no_dropout
from trainlab.observe.capture import Layer, capture
from trainlab.training.modules import matrices
from trainlab.training.trainer import Trainer

IMAGES, TRIES = 128, 8  # TRIES: steps, since lr may warm up from 0
FORWARD = (-2.0, 1.5)  # log10 of last over first hidden layer
BACKWARD = (-3.0, 1.85)  # log10 of first over last; 70 is AUTOTRAINER's bound (2021)
EXPECTED = f"forward within 10^{FORWARD[0]:g} .. 10^{FORWARD[1]:g}, backward within "
EXPECTED += f"10^{BACKWARD[0]:g} .. 10^{BACKWARD[1]:g}"


def profile(fresh: Fresh) -> Verdict:
    """Per hidden layer at initialisation, log10 of the activations' std over samples (forward) and
    of the rms of d loss / d activation (backward).

    Both are needed: small initial weights shrink the forward signal while the gradients look
    healthy. The std is taken per unit: pooled over units it looks healthy even if no unit responds
    to the input. Upstream of a head or branch initialised at 0 the gradient is 0; such a layer is
    left out, unless its gradient is still 0 after a few steps.
    """
    trainer, verdict = fresh(), partial(Verdict, "profile", expected=EXPECTED)
    x, y = images(trainer, IMAGES)
    with no_dropout(trainer.model):
        calls, sizes = _calls(trainer, x, y)
        later = sizes
        for _ in range(TRIES):
            if -math.inf in later.values():
                trainer.step(x, y)
                later = _calls(trainer, x, y)[1]
    if len(calls) < 2:
        return verdict(
            SKIPPED, f"{len(calls)} activation calls: at least 2 are needed for a profile"
        )
    names, forward = list(sizes), _log10([_spread(c.out) for c in calls])
    if max(sizes.values()) == -math.inf:
        sizes = later
    backward = list(sizes.values())
    saw = (
        f"{names[0]} to {names[-1]}: std {_figures(forward)}, gradient {_figures(backward)} (log10)"
    )
    problems = _problems("signal", forward, names, FORWARD)
    lasting = []  # without layers whose gradient is 0 in the first step only
    for name, size in reversed(sizes.items()):
        if size > -math.inf or later.get(name) == -math.inf:
            lasting.append(name)
    problems += _problems("gradient", [sizes[n] for n in lasting], lasting, BACKWARD)
    if not problems:
        return verdict(PASS, saw)
    advice = "init=he_normal (with init.gain=auto), norm=batch, activation=relu, or fewer layers"
    blank = not any(p.any() for p in matrices(trainer.model).values())
    cause = "init.zero" if blank else _cause(fresh, forward, [sizes[n] for n in lasting])
    return verdict(WARN, f"{'; '.join(problems)}; {saw}", advice=advice, cause=cause)


def _cause(fresh: Fresh, forward: list[float], backward: list[float]) -> str:
    """The cause that both profiles point to: the initial weights, where the forward signal does not
    keep its size."""
    if -math.inf in (*forward, *backward):
        return "act.dead"
    if not all(map(math.isfinite, (*forward, *backward))):
        return "init.too_large"
    grown, back = forward[-1] - forward[0], backward[-1] - backward[0]
    if FORWARD[0] <= grown <= FORWARD[1]:
        return "grad.vanishing" if back < 0 else "grad.exploding"
    if cause := init_gain(fresh).cause:
        return cause
    flat = (
        "grad.vanishing" if back < BACKWARD[0] else "init.too_small"
    )  # activations with a slope far below 1
    return flat if grown < 0 else "init.too_large"


def _calls(trainer: Trainer, x: Tensor, y: Tensor) -> tuple[list[Layer], dict[str, float]]:
    """The activation calls that the loss depends on, and log10 of the rms of their gradients."""
    layers = capture(trainer.model, trainer.criterion, x, y).layers
    calls = [c for c in layers if c.function and c.grad is not None]
    sizes = _log10([c.grad.double().square().mean().sqrt() for c in calls])
    return calls, dict(zip([c.name for c in calls], sizes, strict=True))


def _spread(values: Tensor) -> Tensor:
    """Root of the mean over units of the variance over samples, of (B, ...)."""
    return values.double().var(0).mean().sqrt()


def _log10(sizes: list[Tensor]) -> list[float]:
    """-inf for an exact zero, nan where a size is not finite."""
    values = torch.stack(sizes) if sizes else torch.zeros(0)
    return torch.where(values.isfinite(), values, math.nan).log10().tolist()


def _figures(profile: list[float]) -> str:
    """At most 8 figures, evenly spaced from first to last."""
    last = len(profile) - 1
    places = sorted({round(i * last / min(7, last)) for i in range(min(8, last + 1))})
    return " ".join(f"{profile[i]:.1f}" for i in places)


def _problems(
    what: str, profile: list[float], names: list[str], limits: tuple[float, float]
) -> list[str]:
    """What is wrong with a profile, as a sentence in a list; empty if nothing is."""
    for size, name in zip(profile, names, strict=True):
        if size == -math.inf:
            return [f"the {what} is exactly 0 at {name}"]
        if math.isnan(size):
            return [f"the {what} is not finite at {name}"]
    change, way = profile[-1] - profile[0], f"from {names[0]} to {names[-1]}"
    if change < limits[0]:
        return [f"the {what} vanishes: {10**change:.0e} times {way}"]
    return [f"the {what} explodes: {10**change:.0e} times {way}"] if change > limits[1] else []
