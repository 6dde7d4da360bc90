"""Are some labels wrong? Named by conf/check/. N samples, F features, K classes."""

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from trainlab.checks import PASS, SKIPPED, WARN, Fresh, Verdict
from trainlab.checks.tools import in_file_order, sample

MOST, LEAST = 2000, 200  # samples
NEIGHBOURS, LEAD = 10, 3  # LEAD: votes by which the first class must lead the second
SURE = 0.3  # share of the samples that is judged: those with the largest lead
NOISE = 0.04  # share of those; clean data (digits, tables, toys) had at most 0.067 in 210 draws
Z = 1.645  # normal quantile: the share is above NOISE with 95 % confidence
EXPECTED = f"under {NOISE:.0%} of the labels contradict their nearest neighbours"


@torch.no_grad()
def label_noise(fresh: Fresh) -> Verdict:
    """Let the nearest neighbours of each sample vote on its class; its own label has no vote.

    Where classes overlap the vote is close, so only the samples with the clearest votes are judged;
    label noise hits those as often as others (idea: Northcutt et al. 2021, Confident learning).
    """
    trainer, verdict = fresh(), partial(Verdict, "label_noise", expected=EXPECTED)
    x, y = (t[:MOST] for t in sample(in_file_order(trainer.batches)))
    if len(x) < LEAST or not x.isfinite().all():
        return verdict(SKIPPED, f"{len(x)} samples, or not all finite: too few to tell")
    votes = _votes(x.flatten(1).float(), y)
    first, second = votes.topk(min(2, votes.shape[1]), 1).values.T.unbind(0)[:2]
    lead, winner = first - second, votes.argmax(1)
    if int((lead >= LEAD).sum()) < 0.5 * len(y):
        return verdict(
            SKIPPED, "nearest neighbours mostly disagree: labels cannot be judged by them"
        )
    surest = lead.argsort(descending=True, stable=True)[: int(SURE * len(y))]
    wrong = surest[winner[surest] != y[surest]]
    share = len(wrong) / len(surest)
    saw = f"of {len(y)} samples, the {len(surest)} with the clearest votes: {share:.1%} of their "
    saw += "labels contradict their neighbours"
    if at_least(len(wrong), len(surest)) < NOISE:
        return verdict(PASS, saw)
    examples = ", ".join(f"{i} ({int(y[i])}, not {int(winner[i])}?)" for i in wrong[:5].tolist())
    advice = f"about {share:.0%} of the labels are wrong; see training samples {examples}"
    return verdict(WARN, saw, advice=advice, cause="data.label_noise")


def at_least(k: int, n: int) -> float:
    """One-sided lower confidence limit of a share, from k of n. Wilson 1927."""
    p, z = k / n, Z * Z / n
    return (p + z / 2 - math.sqrt(z * (p * (1 - p) + z / 4))) / (1 + z)


def _votes(x: Tensor, y: Tensor) -> Tensor:
    """(N, K) votes of each sample's nearest neighbours, by standardised features."""
    std, mean = torch.std_mean(x, 0)
    x = (x - mean) / torch.where(std > 1e-6 * std.max(), std, torch.inf)
    near = torch.cdist(x, x).fill_diagonal_(torch.inf).topk(NEIGHBOURS, 1, largest=False).indices
    return functional.one_hot(y, max(int(y.max()) + 1, 2))[near].sum(1)
