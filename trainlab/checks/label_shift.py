"""Do the labels belong to the inputs? Named by conf/check/.

N samples, F features, K classes.
"""

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from trainlab.checks import PASS, SKIPPED, WARN, Fresh, Verdict
from trainlab.checks.tools import in_file_order, sample

SHIFTS = 3  # positions to either side
RIDGE = 1.0  # the entries of the kernel are near 1
LEAST = 200  # samples; with fewer the standard error is too large
GAIN, ERRORS = 0.1, 4.0  # accuracy, and standard errors, that another shift must win by
EXPECTED = "the probe predicts best with the labels where they are"


class Probe(NamedTuple):
    """Ridge regression from inputs to classes, solved once for any labels of the same inputs."""

    mean: Tensor
    std: Tensor
    rows: Tensor  # (n, F) standardised
    factor: Tensor  # Cholesky factor of K + RIDGE, (n, n)

    @classmethod
    def of(cls, x: Tensor) -> "Probe":
        """x (n, F)"""
        std, mean = torch.std_mean(x, 0)
        std = torch.where(
            std > 1e-6 * std.max(), std, math.inf
        )  # constant features count for nothing
        rows = (x - mean) / std
        kernel = rows @ rows.T / rows.shape[1] + 1
        return cls(mean, std, rows, torch.linalg.cholesky(kernel + RIDGE * torch.eye(len(x)).to(x)))

    def near(self, x: Tensor) -> Tensor:
        """Kernel (m, n) of other inputs x (m, F) with those of the probe."""
        return ((x - self.mean) / self.std) @ self.rows.T / self.rows.shape[1] + 1

    def predict(self, kernel: Tensor, y: Tensor, classes: int) -> Tensor:
        """Classes (m,) by kernel (m, n), learned from the labels y (n,)."""
        target = functional.one_hot(y, classes).to(kernel)
        return (kernel @ torch.cholesky_solve(target, self.factor)).argmax(1)


def label_shift(fresh: Fresh) -> Verdict:
    """Fit a closed-form ridge probe to two of three samples, in file order, and predict the third.

    With the labels shifted by -3 .. 3 places it must do best at 0, and on validation with the class
    numbers as they are. If both the probe and the nearest neighbour are at chance, the labels are
    unrelated to the inputs, as far as that many samples can tell.
    """
    trainer, verdict = fresh(), partial(Verdict, "label_shift", expected=EXPECTED)
    x, y = sample(in_file_order(trainer.batches))
    if len(x) < LEAST or not x.isfinite().all():
        return verdict(SKIPPED, f"{len(x)} samples, or not all finite: too few to tell")
    x, classes = x.flatten(1).float(), int(y.max()) + 1
    test = torch.arange(len(x), device=x.device) % 3 == 0
    probe = Probe.of(x[~test])
    kernel = probe.near(x[test])
    error = ERRORS * math.sqrt(0.25 / int(test.sum()))
    scores = {}
    for shift in sorted(range(-SHIFTS, SHIFTS + 1), key=abs):
        moved = y.roll(-shift)
        guess = probe.predict(kernel, moved[~test], classes)
        scores[shift] = float((guess == moved[test]).float().mean())
    best = max(scores, key=scores.get)
    if scores[best] > scores[0] + max(GAIN, error):
        saw = f"probe accuracy {scores[0]:.2f}, but {scores[best]:.2f} with the labels shifted "
        saw += f"by {best:+d} samples"
        advice = f"inputs and labels are misaligned: roll the labels by {-best}"
        return verdict(WARN, saw, advice=advice, cause="data.misaligned")
    if trainer.validation is not None:
        guess = probe.predict(probe.near(sample(trainer.validation)[0].flatten(1).float()),
                              y[~test], classes)  # fmt: skip
        if text := _renumbered(guess, sample(trainer.validation)[1], classes):
            advice = "train and validation number their classes differently: check the labels"
            return verdict(WARN, text, advice=advice, cause="data.renumbered")
    guess = probe.predict(kernel, y[~test], classes)
    nearest = y[~test][torch.cdist((x[test] - probe.mean) / probe.std, probe.rows).argmin(1)]
    saw = f"ridge probe accuracy {scores[0]:.2f} on held-out training samples, at most "
    saw += f"{max(v for k, v in scores.items() if k):.2f} with shifted labels"
    if max(_beyond_chance(predicted, y[test]) for predicted in (guess, nearest)) < ERRORS:
        saw += f"; nearest neighbour {float((nearest == y[test]).float().mean()):.2f}: at chance"
        advice = "labels look random: check how they are read and joined to the inputs"
        return verdict(WARN, saw, advice=advice, cause="data.labels_random")
    return verdict(PASS, saw)


def _renumbered(guess: Tensor, y: Tensor, classes: int) -> str:
    """Which k makes guesses (N,) fit y + k better than y, as a sentence; empty if none does."""
    scores = [float((guess == (y + k) % classes).float().mean()) for k in range(classes)]
    best = max(range(classes), key=scores.__getitem__)
    if scores[best] <= scores[0] + max(GAIN, ERRORS * math.sqrt(0.25 / len(y))):
        return ""
    saw = f"probe accuracy on validation {scores[0]:.2f}, but {scores[best]:.2f}"
    return f"{saw} if class k were class (k + {best}) mod {classes}"


def _beyond_chance(guess: Tensor, y: Tensor) -> float:
    """Standard errors by which guesses (N,) agree with labels more than independent ones would."""
    shares = [t.bincount(minlength=int(max(guess.max(), y.max())) + 1) / len(t) for t in (guess, y)]
    chance = float((shares[0] * shares[1]).sum())
    hits = float((guess == y).float().mean())
    return (hits - chance) / math.sqrt(max(chance * (1 - chance), 1e-12) / len(y))
