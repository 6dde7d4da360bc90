"""Do equal samples have equal labels, and is validation unseen? Named by conf/check/."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

from trainlab.checks import PASS, WARN, Fresh, Verdict
from trainlab.checks.tools import one_pass

VALUES = 2**28  # of each split at most (1 GB read, one batch at a time); a digest takes 16 bytes
SAME = 0.2  # share of the samples that are copies of a single one
SHARE, FEW = (
    0.01,
    2,
)  # share and number of duplicates that pass; CIFAR-10 and MNIST have fewer exact duplicates


def duplicates(fresh: Fresh) -> Verdict:
    """Compare digests of the preprocessed inputs: equal inputs with different labels cannot be
    learned, and training samples that are also in validation inflate its score."""
    trainer, verdict = fresh(), partial(Verdict, "duplicates")
    labels: dict[bytes, set[int]] = {}
    train = list(_digests(trainer.batches))
    for digest, label in train:
        labels.setdefault(digest, set()).add(label)
    contradicting = sum(len(labels[digest]) > 1 for digest, _ in train)
    val = [] if trainer.validation is None else [d for d, _ in _digests(trainer.validation)]
    leaked = sum(digest in labels for digest in val)
    saw = f"of {len(train)} training samples {len(train) - len(labels)} repeat another"
    saw += f", {contradicting} contradict an equal one; of {len(val)} in validation {leaked} are "
    saw += "in training"
    expected = f"under {SHARE:.0%} contradict, under {SHARE:.0%} are in both splits"
    most = max(Counter(digest for digest, _ in train).values(), default=0)
    if most > max(FEW, SAME * len(train)):
        advice = f"one sample occurs {most} times: check how the data are read"
        return verdict(WARN, saw, expected, advice, cause="data.constant_input")
    if contradicting > max(FEW, SHARE * len(train)):
        advice = "equal inputs with different labels cannot be learned: clean the labels"
        return verdict(WARN, saw, expected, advice, cause="data.conflicting_labels")
    if leaked > max(FEW, SHARE * len(val)):
        advice = "the network trains on validation samples: remove them from one of the two splits"
        return verdict(WARN, saw, expected, advice, cause="data.leak")
    return verdict(PASS, saw, expected)


def _digests(batches: Callable) -> Iterator[tuple[bytes, int]]:
    """(digest, label) of each sample of an epoch, up to VALUES values."""
    most = max(1, VALUES // batches(0)[0][0].numel())
    for x, y in one_pass(batches, most):
        for row, label in zip(x.flatten(1).cpu().numpy(), y.tolist(), strict=True):
            yield hashlib.blake2b(row, digest_size=16).digest(), label
