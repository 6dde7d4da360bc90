"""Does a step start from an empty gradient? Named by conf/check/."""

from functools import partial

import torch
from torch import Tensor

from trainlab.checks import FAIL, PASS, SKIPPED, Fresh, Verdict

CALLS = 8  # gradients may be accumulated on purpose over up to so many calls


def accumulation(fresh: Fresh) -> Verdict:
    """Without zero_grad, whatever stood in .grad before a step is still there after it.

    Each call starts from the same state, with a random gradient planted in .grad, 100 times as
    large as a real one, so that neither clipping nor noise can hide or fake it. A step that clears
    .grad, first or last, leaves no trace of it.
    """
    expected = "each step starts from an empty gradient"
    verdict = partial(Verdict, "accumulation", expected=expected)
    for call in range(1, CALLS + 1):
        trainer = fresh()
        trainer.model.train()
        x, y = trainer.batches(0)
        held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
        params = [p for p in trainer.params if id(p) in held]
        if not params:
            return verdict(SKIPPED, "the optimizer holds no trainable parameter of the model")
        loss = trainer.criterion(trainer.model(x), y)
        grads = torch.autograd.grad(loss, params, allow_unused=True)
        used = [(p, g) for p, g in zip(params, grads, strict=True) if g is not None]
        if not used:
            return verdict(SKIPPED, "no parameter in the optimizer has a gradient")
        size = torch.stack([g.square().mean().sqrt() for _, g in used]).max().clamp(min=1e-6)
        planted = [100 * size * torch.randn_like(p) for p, _ in used]
        for (p, _), plant in zip(used, planted, strict=True):
            p.grad = plant.clone()
        trainer.step(x, y)
        if _cosine([p.grad for p, _ in used], planted) < 0.9:
            late = f" by call {call}: gradients are accumulated over several calls on purpose"
            return verdict(PASS, f"the gradient is cleared{late if call > 1 else ''}")
    saw = f"a gradient planted in .grad survives each of {CALLS} steps: gradients accumulate"
    advice = "call optimizer.zero_grad() in every step"
    return verdict(FAIL, saw, advice=advice, cause="loop.no_zero_grad")


def _cosine(grads: list[Tensor | None], planted: list[Tensor]) -> float:
    """Cosine between the planted gradient and the one left in .grad; 0 where none is left."""
    pairs = [(g, p) for g, p in zip(grads, planted, strict=True) if g is not None]
    if not pairs:
        return 0.0
    left, plant = (torch.cat([t.flatten() for t in ts]).double() for ts in zip(*pairs, strict=True))
    return float(torch.dot(left, plant) / (left.norm() * plant.norm()).clamp(min=1e-300))
