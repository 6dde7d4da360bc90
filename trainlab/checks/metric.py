"""Is accuracy counted correctly? Named by conf/check/. B batch, K classes."""

from functools import partial

import torch
from torch import Tensor

from trainlab.checks import FAIL, PASS, SKIPPED, Fresh, Verdict
from trainlab.checks.tools import no_classes, no_dropout
from trainlab.training.metrics import classes_of
from trainlab.training.trainer import evaluating


def metric(fresh: Fresh) -> Verdict:
    """Compare the trainer's count of correct predictions, in a step and in an evaluation, with one
    made here, sample by sample."""
    trainer, verdict = fresh(), partial(Verdict, "metric", expected="the same count")
    x, y = trainer.batches(0)
    with no_dropout(trainer.model):
        with torch.no_grad():
            parts = x.tensor_split(min(trainer.accumulate, len(y)))
            z = torch.cat([trainer.forward(part) for part in parts])
        if reason := no_classes(z, classes_of(y)):
            return verdict(SKIPPED, reason)
        trainer.step(x, y)
    if not trainer.record:
        return verdict(SKIPPED, "the step that was passed records no metric")
    names = [m.facts.name for m in trainer.followed]
    if "accuracy" not in names:
        return verdict(SKIPPED, f"metric={','.join(names)} does not include accuracy")
    least, most = _correct(z, y)
    reported = int(trainer.record[-1][1 + names.index("accuracy")])
    saw = f"trainer counts {reported} of {len(y)} correct in a batch, this check "
    saw += _as_range(least, most)
    batches = trainer.validation
    if least <= reported <= most and batches is not None:
        share = float(trainer.evaluate(batches)["accuracy"])
        with torch.no_grad(), evaluating(trainer.model):
            pairs = map(batches, range(batches.per_epoch))
            counts = [(*_correct(trainer.forward(x), y), len(y)) for x, y in pairs]
        least, most, size = map(sum, zip(*counts, strict=True))
        reported = round(share * size)
        saw += f"; in validation {reported}, this check {_as_range(least, most)}"
    if not least <= reported <= most:
        advice = "accuracy is the share of samples with outputs.argmax(-1) == y"
        return verdict(FAIL, saw, advice=advice, cause="metric.inconsistent")
    return verdict(PASS, saw)


def _correct(z: Tensor, y: Tensor) -> tuple[int, int]:
    """How many predictions from logits (B, K) are correct: without ties, with ties."""
    pairs = list(zip(z.tolist(), classes_of(y).tolist(), strict=True))
    first = [row[label] == max(row) for row, label in pairs]
    alone = [row.count(row[label]) == 1 for row, label in pairs]
    return sum(a and b for a, b in zip(first, alone, strict=True)), sum(first)


def _as_range(least: int, most: int) -> str:
    return f"{least}" if least == most else f"{least} .. {most}, with ties"
