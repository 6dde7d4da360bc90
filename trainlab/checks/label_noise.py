"""Are some labels wrong? Named by conf/check/. N samples, F features, K classes."""

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from trainlab.checks import PASS, SKIPPED, WARN, Fresh, Verdict
from trainlab.checks.tools import in_file_order, sample

MOST, LEAST = 2000, 200  # samples
NEIGHBOURS, LEAD = 10, 3  # votes by which the first class must lead the second
SURE = 0.3  # of the samples: those with the largest lead are judged
NOISE = 0.04  # of them; clean digits, shifted ones, tables and toys had at most 0.067 in 210 draws
Z = 1.645  # of the normal distribution: the share is above NOISE with 95 % confidence
EXPECTED = f"under {NOISE:.0%} of the labels differ from those of all their neighbours"


@torch.no_grad()
def label_noise(fresh: Fresh) -> Verdict:
    """The nearest neighbours of a sample vote on its class; its own label has no vote.

    Classes that overlap are unsure of each other, and only the surest samples are judged: of these
    noise has its share too (Northcutt et al. 2021, Confident learning, for the idea).
    """
    trainer, verdict = fresh(), partial(Verdict, "label_noise", expected=EXPECTED)
    x, y = (t[:MOST] for t in sample(in_file_order(trainer.batches)))
    if len(x) < LEAST or not x.isfinite().all():
        return verdict(SKIPPED, f"{len(x)} samples, or not all finite: too few to tell")
    votes = _votes(x.flatten(1).float(), y)
    first, second = votes.topk(min(2, votes.shape[1]), 1).values.T.unbind(0)[:2]
    lead, winner = first - second, votes.argmax(1)
    if int((lead >= LEAD).sum()) < 0.5 * len(y):
        return verdict(SKIPPED, "neighbours mostly disagree: nothing to judge labels by")
    surest = lead.argsort(descending=True, stable=True)[: int(SURE * len(y))]
    wrong = surest[winner[surest] != y[surest]]
    share = len(wrong) / len(surest)
    saw = f"of the {len(surest)} surest of {len(y)} samples {share:.1%} differ from their "
    saw += "neighbours"
    if at_least(len(wrong), len(surest)) < NOISE:
        return verdict(PASS, saw)
    some = ", ".join(f"{i} ({int(y[i])}, not {int(winner[i])}?)" for i in wrong[:5].tolist())
    advice = f"about {share:.0%} of the labels are wrong; look at training samples {some}"
    return verdict(WARN, saw, advice=advice, cause="data.label_noise")


def at_least(k: int, n: int) -> float:
    """One-sided lower limit of the share that k of n are of. Wilson 1927."""
    p, z = k / n, Z * Z / n
    return (p + z / 2 - math.sqrt(z * (p * (1 - p) + z / 4))) / (1 + z)


def _votes(x: Tensor, y: Tensor) -> Tensor:
    """(N, K) votes of the nearest others of each sample; features (N, F) count alike."""
    std, mean = torch.std_mean(x, 0)
    x = (x - mean) / torch.where(std > 1e-6 * std.max(), std, torch.inf)
    near = torch.cdist(x, x).fill_diagonal_(torch.inf).topk(NEIGHBOURS, 1, largest=False).indices
    return functional.one_hot(y, max(int(y.max()) + 1, 2))[near].sum(1)
