"""What do the training inputs and labels look like? Named by conf/check/.

N samples, F features, K classes.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from trainlab.checks import FAIL, PASS, WARN, Fresh, Verdict
from trainlab.checks.tools import one_pass, sample

STD, MEAN = 3.0, 1.0  # inputs beyond them are not normalised; raw digits have mean 4.9, std 6
TWICE = 3.0  # |mean| in std: normalised twice, or with the statistics of other data
TINY = 0.05  # std: the same
BALANCE = 0.8  # entropy of the labels over ln K
WIDER = 1.1  # std of a feature in training over that in validation; sampling error comes on top
FEW = 10  # samples per class
CONSTANT = 0.5  # of the features
SORTED = 0.3  # 0 is a random batch, 1 a batch of a single class
EXPECTED = f"|mean| < {MEAN:g}, std < {STD:g}; balanced, shuffled, alike in train and validation"


def data_card(fresh: Fresh) -> Verdict:
    """Range, mean and std of at most 2048 preprocessed training inputs, compared with validation;
    constant features; class balance; whether the batches are shuffled."""
    trainer, verdict = fresh(), partial(Verdict, "data_card", expected=EXPECTED)
    x, y = sample(trainer.batches)
    y = getattr(trainer.batches, "y", y)
    if bad := int((~x.isfinite()).sum()):
        rows = (~x.flatten(1).isfinite()).any(1).nonzero().flatten()[:3].tolist()
        saw = f"{bad} values of the input are not finite, first in samples {rows}"
        advice = "repair or drop these samples"
        return verdict(FAIL, saw, advice=advice, stops=True, cause="data.nonfinite")
    mean, std, low, high = _moments(x)
    still = int((x == x[0]).flatten(1).all(0).sum())
    features, counts = x[0].numel(), y.bincount()
    saw = f"{low:.3g} .. {high:.3g}, mean {mean:.2g}, std {std:.2g}; {still} of {features} features"
    saw += f" constant; {len(counts)} classes of {int(counts.min())} to {int(counts.max())} samples"
    if still == features:
        advice = "check how the data are read and preprocessed: every sample is the same image"
        saw = f"all {len(x)} samples are the same; {saw}"
        return verdict(FAIL, saw, advice=advice, cause="data.constant_input")
    if trainer.validation is not None and (text := _noisy(x, trainer.validation)):
        advice = "training inputs carry noise that validation lacks: check how they are read"
        return verdict(WARN, f"{text}; {saw}", advice=advice, cause="data.noisy_input")
    if std > STD or abs(mean) > MEAN or abs(mean) > TWICE * std or std < TINY:
        twice = std < 1
        advice = "normalised twice, or with statistics of other data" if twice else "not normalised"
        cause = "data.double_norm" if twice else "data.unnormalised"
        return verdict(WARN, saw, advice=f"{advice}: preprocess=standardize, once", cause=cause)
    if trainer.validation is not None and (text := _shifted(trainer.validation, mean, std)):
        advice = "preprocess both splits alike (preprocess.test=null)"
        return verdict(WARN, f"{text}; {saw}", advice=advice, cause="data.split_shift")
    if _sorted(trainer.batches, counts):
        advice = "data.order=shuffled"
        saw = f"most batches hold a single class; {saw}"
        return verdict(WARN, saw, advice=advice, cause="data.not_shuffled")
    share = counts / counts.sum()
    balance = float(torch.special.entr(share).sum()) / math.log(max(len(counts), 2))
    if balance < BALANCE:
        advice = f"predicting the largest class alone gives {float(share.max()):.0%} accuracy: "
        advice += (
            "init.bias=prior, more samples of the other classes, and judge by balanced_accuracy too"
        )
        saw += f": label entropy is {balance:.2f} of ln K"
        return verdict(WARN, saw, advice=advice, cause="data.imbalance")
    if float(counts[counts > 0].double().median()) < FEW:
        advice = (
            "a set this small will be memorised: more data, augment=noise, early_stop.patience=5"
        )
        return verdict(
            WARN, f"under {FEW} samples per class; {saw}", advice=advice, cause="fit.overfit"
        )
    if still > CONSTANT * features:
        advice = "constant features carry no information: check how the data are read"
        return verdict(WARN, saw, advice=advice, cause="data.constant_input")
    return verdict(PASS, saw)


def _moments(x: Tensor) -> list[float]:
    """mean, std, least and largest."""
    return torch.stack([x.mean(), x.std(), *x.aminmax()]).tolist()


def _noisy(x: Tensor, validation: Callable) -> str:
    """How much more the features of x (N, F) vary than in validation, as a sentence; empty if they
    do not, or if the means differ."""
    other = sample(validation)[0].flatten(1)
    wide, usual = x.flatten(1).std(0), other.std(0)
    size = other.std()
    if not (x.mean() - other.mean()).abs() < 0.5 * size:
        return ""
    ratio = float((wide / usual.clamp_min(0.01 * float(size))).median())
    if not ratio > WIDER + 4 / math.sqrt(2 * len(other)):
        return ""
    return f"the features vary {ratio:.2f} times as much as in validation"


def _shifted(validation: Callable, mean: float, std: float) -> str:
    """How validation differs from training inputs of this mean and std, as a sentence or empty."""
    other, spread, *_ = _moments(sample(validation)[0])
    if abs(other - mean) < 0.5 * std and 0.5 * std < spread < 2 * std:
        return ""
    return f"validation has mean {other:.2g} and std {spread:.2g}"


def _sorted(batches: Callable, counts: Tensor) -> bool:
    """Whether two samples of a batch share a class far more often than two of the whole set."""
    parts = [y.bincount().double() for _, y in one_pass(batches, 2048)]
    if len(parts) < 2:
        return False
    same, pairs = (sum(float(f(n)) for n in parts) for f in (_same, _pairs))
    expected = float(_same(counts.double()) / _pairs(counts.double()))
    chance = 4 * math.sqrt(expected * (1 - expected) / max(pairs, 1))
    return same / max(pairs, 1) > expected + max(SORTED * (1 - expected), chance)


def _same(counts: Tensor) -> Tensor:
    """Ordered pairs of samples of the same class."""
    return (counts * (counts - 1)).sum()


def _pairs(counts: Tensor) -> Tensor:
    """Ordered pairs of samples."""
    return counts.sum() * (counts.sum() - 1)
