"""Is the update ratio sane, and do clipping, decay, eps and schedule fit? Named by conf/check/."""

import math
from functools import partial
from statistics import median

import torch
from torch import Tensor

from trainlab.checks import PASS, WARN, Fresh, Verdict
from trainlab.checks.tools import images, no_dropout
from trainlab.optim.lr_curve import ends_early, sampled
from trainlab.training.modules import is_matrix, matrices
from trainlab.training.trainer import Trainer

LEAP, CRAWL = 0.5, 1e-6  # norm(first update) / norm(weight) at full lr; 1e-3 is usual
EPS = 5.0  # eps over the root of the second moment; eps is meant to be far below it
DECAY = 1.0  # weight-decay update / gradient update
SHRINKS = 1.0  # e-folds by which decay alone would shrink the weights over the run
CUT = 0.01  # clipped gradient norm / gradient norm
UPDATES, PER_EPOCH = 100, 10  # fewer updates than both are too few
LARGE = 64  # samples in a batch that could be smaller
EXPECTED = f"update ratio within {CRAWL:g} .. {LEAP:g}"


def optimizer(fresh: Fresh) -> Verdict:
    """Measure the update ratio of the first step at full lr (no warm-up), with and without weight
    decay; what clipping leaves of the gradient; Adam's eps over its second moment; the lr curve."""
    trainer, verdict = fresh(), partial(Verdict, "optimizer", expected=EXPECTED)
    curve = [float(factor) for factor in sampled(trainer.schedule, trainer.steps)] or [1.0]
    share = ends_early(curve)
    if share is not None:
        saw = f"after {share:.0%} of the run lr stays below 1 % of its peak"
        advice = "schedule=warmup_cosine: a schedule counts steps of all steps, not epochs"
        return verdict(WARN, saw, advice=advice, cause="sched.wrong_unit")
    if text := _few_updates(trainer):
        size = max(8, len(trainer.batches(0)[1]) // 8)
        return verdict(WARN, text, advice=f"batch_size={size}", cause="optim.few_updates")
    left = _clipped(trainer)
    if left < CUT:
        saw = f"clipping leaves {left:.1g} of the gradient norm: "
        saw += "the clip limit, not lr, sets the step size"
        advice = "clip near the usual gradient norm, or not at all: clip.norm=null"
        return verdict(WARN, saw, advice=advice, cause="optim.overclipped")
    whole = _first(fresh, max(curve))
    plain = _first(fresh, max(curve), decay=False)
    before = _sizes(fresh)
    ratios = [_norm(u) / b for u, b in zip(plain.updates, before, strict=True) if b > 0]
    size = median(ratios) if ratios else math.nan
    saw = f"update ratio {size:.2g} in the first step at full lr"
    if plain.eps > EPS:
        saw = f"eps is {plain.eps:.1g} times the root of the second moment; {saw}"
        return verdict(WARN, saw, advice="optim.eps=1e-8", cause="optim.eps")
    if text := _strong_decay(
        fresh(), whole.updates, plain.updates, before, sum(curve) / len(curve)
    ):
        advice = "optim.weight_decay=0.0001 penalty.l2=0"
        return verdict(WARN, f"{text}; {saw}", advice=advice, cause="reg.weight_decay_high")
    lr = max(map(float, trainer.lrs))
    if text := noisy(fresh, max(curve)):
        advice = f"batch_size=32, or optim.lr={lr / 10:.2g}"
        return verdict(WARN, text, advice=advice, cause="optim.noisy")
    line_search = any(g.get("line_search_fn") for g in trainer.optimizer.param_groups)  # L-BFGS
    if size > LEAP and not line_search:
        advice = f"optim.lr={lr * 0.01 / size:.1g}"
        return verdict(WARN, saw, advice=advice, cause="optim.lr_high")
    if 0 < size < CRAWL:
        advice = f"optim.lr={lr * 1e-3 / size:.1g}"
        return verdict(WARN, saw, advice=advice, cause="optim.lr_low")
    return verdict(PASS, saw)


class Update:
    """One step: its updates of the weight matrices, and eps over the root of the second moment."""

    def __init__(self, updates: list[Tensor], eps: float):
        self.updates, self.eps = updates, eps


def _weights(trainer: Trainer) -> list[Tensor]:
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    weights = matrices(trainer.model).values()
    return [p for p in weights if p.requires_grad and id(p) in held]


def _norm(t: Tensor) -> float:
    return float(t.detach().double().norm())


def _sizes(fresh: Fresh) -> list[float]:
    return [_norm(p.detach()) for p in _weights(fresh())]


def _first(fresh: Fresh, factor: float, decay: bool = True) -> Update:
    """The first step at `factor` times lr; with decay=False without weight decay and penalty."""
    trainer = fresh()
    trainer.change(schedule=lambda step, steps: factor)
    if not decay:
        trainer.change(penalty=None)
        for group in trainer.optimizer.param_groups:
            group.update({"weight_decay": 0.0} if "weight_decay" in group else {})
    before = [p.detach().clone() for p in _weights(trainer)]
    trainer.set_train_mode(trainer.model)
    torch.manual_seed(0)  # the same dropout masks both times
    trainer.step(*trainer.batches(0))
    updates = [p.detach() - b for p, b in zip(_weights(trainer), before, strict=True)]
    return Update(updates, _eps(trainer))


def _eps(trainer: Trainer) -> float:
    """eps over the rms of the gradient, for the Adam family and RMSprop; 0 for others."""
    largest = 0.0
    for group in trainer.optimizer.param_groups:
        second = "betas" in group or "alpha" in group
        grads = [p.grad.flatten() for p in group["params"] if p.grad is not None and is_matrix(p)]
        if second and grads and group.get("eps", 0) > 1e-4:
            rms = float(torch.cat(grads).double().square().mean().sqrt())
            largest = max(largest, group["eps"] / max(rms, 1e-12))
    return largest


def _strong_decay(
    trainer: Trainer, whole: list[Tensor], plain: list[Tensor], before: list[float], mean: float
) -> str:
    """How much larger the decay update is than the gradient update, as a sentence or empty.

    `mean` is the mean factor of the schedule; momentum m makes each step 1 / (1 - m) times longer.
    """
    shares, folds = [], []
    momentum = max(float(g.get("momentum", 0) or 0) for g in trainer.optimizer.param_groups)
    for w, p, size in zip(whole, plain, before, strict=True):
        if size > 0 and _norm(p) > 0:
            shares.append(_norm(w - p) / _norm(p))
            folds.append(_norm(w - p) / size * mean * trainer.steps / (1 - min(momentum, 0.99)))
    if not shares or not (median(shares) > DECAY and median(folds) > SHRINKS):
        return ""
    return f"weight decay moves the weights {median(shares):.2g} times as far as the gradient"


def _clipped(trainer: Trainer) -> float:
    """Norm of the clipped gradient over norm of the gradient; 1 without clipping."""
    if trainer.clip is None:
        return 1.0
    trainer.set_train_mode(trainer.model)
    x, y = trainer.batches(0)
    grads = torch.autograd.grad(
        trainer.criterion(trainer.model(x), y), trainer.params, allow_unused=True
    )
    held = [(g, p) for g, p in zip(grads, trainer.params, strict=True) if g is not None]
    bounded, _ = trainer.clip([g.clone() for g, _ in held], [p for _, p in held])
    cut = _norm(torch.cat([g.flatten() for g in bounded]))
    full = _norm(torch.cat([g.flatten() for g, _ in held]))
    return cut / full if full > 0 else 1.0


def _few_updates(trainer: Trainer) -> str:
    """How few updates large batches leave, as a sentence; empty if there are enough."""
    per_epoch, size = getattr(trainer.batches, "per_epoch", None), len(trainer.batches(0)[1])
    inside = max(group.get("max_iter", 1) for group in trainer.optimizer.param_groups)  # L-BFGS
    if per_epoch is None or inside > 1 or size <= LARGE:
        return ""
    if per_epoch >= PER_EPOCH or trainer.steps >= UPDATES:
        return ""
    return f"only {trainer.steps} updates in all, {per_epoch} per epoch, with batches of {size}"


TINY, USUAL = 4, 32  # batch sizes: up to TINY is judged, by comparison with USUAL
STEPS, RAMP = 120, 20  # RAMP: steps of warm-up
WORSE = 3.0  # factor by which the loss must fall with batches of USUAL


def noisy(fresh: Fresh, factor: float) -> str:
    """Compare training at `factor` times lr with tiny batches and with usual ones: a sentence where
    only the tiny ones fail, so that noise is the cause and not lr alone; else empty."""
    if len(fresh().batches(0)[1]) > TINY:
        return ""
    before, tiny = _trial(fresh(), factor, 1)
    if tiny < before:  # a nan is not
        return ""
    _, usual = _trial(fresh(), factor, USUAL // len(fresh().batches(0)[1]))
    if not usual < before / WORSE:
        return ""
    size = len(fresh().batches(0)[1])
    saw = f"{STEPS} steps take the loss from {before:.3g} to {tiny:.3g} with batches of {size}, "
    return f"{saw}to {usual:.3g} with batches of {USUAL}"


def _trial(trainer: Trainer, factor: float, joined: int) -> tuple[float, float]:
    """The loss on 256 images before and after STEPS steps of `joined` batches each."""
    x, y = images(trainer, 256)
    trainer.change(schedule=lambda step, steps: factor * min((step + 1) / RAMP, 1))
    losses = []
    for steps in (0, STEPS):
        trainer.set_train_mode(trainer.model)
        for step in range(steps):
            parts = [trainer.batches(step * joined + i) for i in range(joined)]
            xs, ys = zip(*parts, strict=True)
            trainer.step(torch.cat(xs), torch.cat(ys))
        with torch.no_grad(), no_dropout(trainer.model):
            losses.append(float(trainer.criterion(trainer.model(x), y)))
    before, after = losses
    return before, after if math.isfinite(after) else math.inf
