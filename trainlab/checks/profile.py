"""Does the signal keep its size through the layers, forwards and backwards? Named by
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

IMAGES, TRIES = 128, 8  # steps, of which the first may warm up from lr 0
FORWARD = (-2.0, 1.5)  # log10 of last over first hidden layer
BACKWARD = (-3.0, 1.85)  # log10 of first over last; 70 is AUTOTRAINER's bound (2021)
EXPECTED = f"forward within 10^{FORWARD[0]:g} .. 10^{FORWARD[1]:g}, backward within "
EXPECTED += f"10^{BACKWARD[0]:g} .. 10^{BACKWARD[1]:g}"


def profile(fresh: Fresh) -> Verdict:
    """log10 of what each hidden layer passes on: forwards the std over samples, backwards the rms
    of d loss / d activation, at initialisation.

    Both, because small initial weights shrink the signal forwards while the ratio of the gradients
    looks healthy. The std is that of each unit over the samples: the pooled one stays healthy over
    a signal that is dead. Before a head or a branch that starts at 0 on purpose the gradient is 0
    too: such a layer is left out, unless it is still 0 after a few steps.
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
        return verdict(SKIPPED, f"{len(calls)} activation calls: no depth to follow")
    names, forward = list(sizes), _log10([_spread(c.out) for c in calls])
    if max(sizes.values()) == -math.inf:
        sizes = later
    backward = list(sizes.values())
    saw = f"{names[0]} to {names[-1]}: std {_shown(forward)}, gradient {_shown(backward)} (log10)"
    told = _judged("signal", forward, names, FORWARD)
    held = [n for n, s in sizes.items() if s > -math.inf or later.get(n) == -math.inf][::-1]
    told += _judged("gradient", [sizes[n] for n in held], held, BACKWARD)
    if not told:
        return verdict(PASS, saw)
    advice = "init=he_normal (with init.gain=auto), norm=batch, activation=relu, or fewer layers"
    blank = not any(p.any() for p in matrices(trainer.model).values())
    cause = "init.zero" if blank else _cause(fresh, forward, [sizes[n] for n in held])
    return verdict(WARN, f"{'; '.join(told)}; {saw}", advice=advice, cause=cause)


def _cause(fresh: Fresh, forward: list[float], backward: list[float]) -> str:
    """What both profiles together are called: the initial weights, where the signal forwards does
    not keep its size."""
    if -math.inf in (*forward, *backward):
        return "act.dead"
    if not all(map(math.isfinite, (*forward, *backward))):
        return "init.too_large"
    grown, back = forward[-1] - forward[0], backward[-1] - backward[0]
    if FORWARD[0] <= grown <= FORWARD[1]:
        return "grad.vanishing" if back < 0 else "grad.exploding"
    if cause := init_gain(fresh).cause:
        return cause
    flat = "grad.vanishing" if back < BACKWARD[0] else "init.too_small"  # a slope far below 1
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


def _shown(profile: list[float]) -> str:
    """At most 8 of them, evenly from first to last."""
    last = len(profile) - 1
    kept = sorted({round(i * last / min(7, last)) for i in range(min(8, last + 1))})
    return " ".join(f"{profile[i]:.1f}" for i in kept)


def _judged(
    what: str, profile: list[float], names: list[str], limits: tuple[float, float]
) -> list[str]:
    """What is wrong from the first to the last of a profile, in words."""
    for size, name in zip(profile, names, strict=True):
        if size == -math.inf:
            return [f"the {what} is exactly 0 at {name}"]
        if math.isnan(size):
            return [f"the {what} is not finite at {name}"]
    change, way = profile[-1] - profile[0], f"from {names[0]} to {names[-1]}"
    if change < limits[0]:
        return [f"the {what} vanishes: {10**change:.0e} times {way}"]
    return [f"the {what} explodes: {10**change:.0e} times {way}"] if change > limits[1] else []
