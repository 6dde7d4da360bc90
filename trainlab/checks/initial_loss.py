"""Is the loss of the untrained network what it must be? Named by conf/preflight/. B batch, K
classes.
"""

import math

import torch

from trainlab.checks import FAIL, PASS, SKIPPED, WARN, Fresh, Verdict
from trainlab.checks.ground import as_outputs, images, no_classes, no_dropout

# Standard deviation of the logits, over classes, from which the start is worth a warning. A correct
# He net has 0.5 to 2.7 (a loss 9 to 145 % above ln K), He on pixels 0 .. 16 has 7 or more, weights
# of N(0, 1) 90 or more.
LARGE = 4.0
CHANCE = 6.0  # standard errors; the error itself is an estimate from K - 1 relabelings
IMAGES = 256


def initial_loss(fresh: Fresh) -> Verdict:
    """Initial loss = loss of equal logits (ln K for cross-entropy) + what their spread adds +
    chance.

    The second term is exact: the mean over relabelings y + c mod K, which no untrained network can
    tell apart (for cross-entropy mean(logsumexp z - mean z) - ln K, about var(z) / 2). In train
    mode, since batch norm has seen no data yet and would let raw scales through; with dropout off,
    which only adds variance.
    """
    name, trainer = "initial_loss", fresh()
    x, y = images(trainer, IMAGES)
    with torch.no_grad(), no_dropout(trainer.model):
        z = trainer.model(x)
        if reason := no_classes(z, y):
            return Verdict(name, SKIPPED, reason)
        classes = z.shape[1]
        shape = as_outputs(trainer.criterion, z, y)
        relabeled = [trainer.criterion(z, (y + c) % classes) for c in range(classes)]
        equal = trainer.criterion(shape(torch.zeros_like(z)), y)
        std = z.std(-1).square().mean().sqrt()
        # one transfer
        equal, std, loss, *others = torch.stack([equal, std, *relabeled]).double().tolist()
    if not math.isfinite(loss):
        return _not_finite(name, loss, x, z)
    spread = (loss + sum(others)) / classes - equal
    rest = loss - equal - spread
    mean = sum(others) / len(others)
    error = math.sqrt(sum((other - mean) ** 2 for other in others) / max(len(others) - 1, 1))
    start = (
        f"ln {classes} ({equal:.2f})"
        if abs(equal - math.log(classes)) < 1e-4
        else f"{equal:.2f} (equal logits)"
    )
    saw = f"{loss:.2f} = {start} + {spread:.2f} from logits of std {std:.2g} {_signed(rest)} by chance"
    expected = f"{start} + the spread of the logits, std < {LARGE:g}"
    if classes >= 5 and loss - equal < -CHANCE * error - 0.01:
        return Verdict(
            name,
            PASS,
            f"{loss:.2f}, below {start}: these weights know the labels already",
            expected,
        )
    if std >= LARGE:
        advice = "preprocess=standardize, or init=xavier_normal (smaller weights), or norm=batch"
        return Verdict(name, WARN, saw, expected, advice)
    if classes >= 5 and rest > CHANCE * error + 0.01:
        saw = f"{loss:.2f} = {start} + {spread:.2f} from logits of std {std:.2g} + {rest:.2f} unexplained"
        return Verdict(
            name,
            WARN,
            saw,
            f"a rest within {CHANCE * error:.2f} of 0",
            "the outputs contradict the labels: check that class k is output k",
        )
    return Verdict(name, PASS, saw, expected)


def _signed(value: float) -> str:
    return f"{'-' if value < 0 else '+'} {abs(value):.2f}"


def _not_finite(name: str, loss: float, x: torch.Tensor, z: torch.Tensor) -> Verdict:
    bad_x, bad_z = int((~x.isfinite()).sum()), int((~z.isfinite()).sum())
    where = (
        f"{bad_x} values of the input" if bad_x else f"{bad_z} logits although the input is finite"
    )
    advice = (
        "check the data for NaN and infinity" if bad_x else "preprocess=standardize init=he_normal"
    )
    if not bad_x and not bad_z:
        where, advice = "the loss itself; the logits are finite", "check the loss function"
    return Verdict(name, FAIL, f"{loss}; not finite: {where}", "a finite loss", advice, stops=True)
