"""Is the initial loss what it must be? Named by conf/check/. K classes."""

import math
import statistics
from functools import partial

import torch
from torch import Tensor

from trainlab.checks import FAIL, PASS, SKIPPED, WARN, Fresh, Verdict
from trainlab.checks.tools import as_outputs, images, no_classes, no_dropout

# Standard deviation of the logits over classes, from which on we warn. 432 correct nets on digits
# (linear, MLP, CNN; four activations; Xavier, He, torch's default; three norms) have at most 2.8;
# He with relu on raw pixels 0 .. 16 has about 7, weights from N(0, 1) mostly 5 to 1e5.
LARGE = 4.0
CHANCE = 6.0  # standard errors, estimated from relabelings; 1,920 correct nets had at most 5.6
RAW = 3.0  # std of inputs that are not normalised
IMAGES, RELABELINGS = 256, 100


def initial_loss(fresh: Fresh) -> Verdict:
    """Initial loss = loss of equal logits (ln K for cross-entropy) + effect of spread + chance.

    The second term is exact: the mean loss over relabelings y + c mod K, which no untrained network
    can tell apart (for cross-entropy mean(logsumexp z - mean z) - ln K, about var(z) / 2). Measured
    in train mode, since batch norm has no statistics yet and would let raw scales through, and
    without dropout, which only adds variance.
    """
    trainer, verdict = fresh(), partial(Verdict, "initial_loss")
    x, y = images(trainer, IMAGES)
    with torch.no_grad(), no_dropout(trainer.model):
        z = trainer.model(x)
        if reason := no_classes(z, y):
            return verdict(SKIPPED, reason)
        classes, criterion = z.shape[1], trainer.criterion
        shifts = range(0, classes, -(-classes // RELABELINGS))
        relabeled = [criterion(z, (y + c) % classes) for c in shifts]
        equal = criterion(as_outputs(criterion, z, y)(torch.zeros_like(z)), y)
        std = z.std(-1).square().mean().sqrt()
        equal, std, loss, *others = torch.stack([equal, std, *relabeled]).double().tolist()
    if not math.isfinite(loss):
        return _not_finite(loss, x, z)
    spread = (loss + sum(others)) / len(shifts) - equal
    rest = loss - equal - spread
    margin = _margin(others)
    start = f"{equal:.2f} (equal logits)"
    if abs(equal - math.log(classes)) < 1e-4:
        start = f"ln {classes} ({equal:.2f})"
    expected = f"{start} + the spread of the logits, std < {LARGE:g}"
    if loss - equal < -margin:
        return verdict(
            PASS,
            f"{loss:.2f}, below {start}: the weights are already trained on these labels",
            expected,
        )
    best = min(others)
    if best - equal < -_margin([loss, *(o for o in others if o is not best)]):
        shift = shifts[1 + others.index(best)]
        saw = f"{loss:.2f}, but {best:.2f} if class k were class (k + {shift}) mod {classes}"
        advice = "check the class numbers: output k must mean class k"
        return verdict(WARN, saw, expected, advice, cause="data.renumbered")
    explained = f"{loss:.2f} = {start} + {spread:.2f} from logits of std {std:.2g}"
    saw = f"{explained} {'-' if rest < 0 else '+'} {abs(rest):.2f} by chance"
    if std >= LARGE:
        advice = "preprocess=standardize, or smaller weights (init=xavier_normal), or norm=batch"
        cause = "data.unnormalised" if float(x.std()) > RAW else "init.too_large"
        return verdict(WARN, saw, expected, advice, cause=cause)
    if rest > margin:
        saw = f"{explained} + {rest:.2f} unexplained"
        advice = (
            "the untrained outputs are anti-correlated with the labels: check labels, weights, loss"
        )
        return verdict(
            WARN, saw, f"at most {margin:.2f} unexplained", advice, cause="loss.mismatch"
        )
    return verdict(PASS, saw, expected)


def _margin(losses: list[float]) -> float:
    """How far chance may move a loss, estimated from the losses under other labels."""
    if len(losses) < 4:
        return math.inf  # too few to tell
    return CHANCE * statistics.stdev(losses) + 0.01


def _not_finite(loss: float, x: Tensor, z: Tensor) -> Verdict:
    """The verdict on a non-finite loss: whether the data, the network or the loss caused it."""
    bad_x, bad_z = int((~x.isfinite()).sum()), int((~z.isfinite()).sum())
    where, advice = "the logits are finite, the loss is not", "check the loss function"
    cause = "numeric.nonfinite"
    if bad_x:
        where, advice = (
            f"{bad_x} values of the input are not finite",
            "check the data for nan and inf",
        )
        cause = "data.nonfinite"
    elif bad_z:
        where = f"{bad_z} logits are not finite, although the inputs are"
        advice = "preprocess=standardize init=he_normal"
        cause = "init.too_large"
    saw = f"{loss}: {where}"
    return Verdict("initial_loss", FAIL, saw, "a finite loss", advice, stops=True, cause=cause)
