"""Does a step start from an empty gradient? Named by conf/preflight/."""

import torch

from trainlab.checks import FAIL, PASS, SKIPPED, Fresh, Verdict

CALLS = 8  # gradients may be accumulated on purpose over so many calls


def accumulation(fresh: Fresh) -> Verdict:
    """Without zero_grad a gradient left in .grad is still there after the next step.

    Each call starts from the same state but for a planted gradient in .grad, random and 100 times
    as large as a real one, so that neither clipping nor fresh noise can hide or fake it. A step
    that clears .grad at its start or at its end leaves no trace of it.
    """
    name, expected = "accumulation", "each step starts from an empty gradient"
    for call in range(1, CALLS + 1):
        trainer = fresh()
        trainer.model.train()
        x, y = trainer.batches(0)
        held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
        params = [p for p in trainer.params if id(p) in held]
        if not params:
            return Verdict(name, SKIPPED, "the optimizer holds no tensor of the model")
        grads = torch.autograd.grad(
            trainer.criterion(trainer.model(x), y), params, allow_unused=True
        )
        used = [(p, g) for p, g in zip(params, grads, strict=True) if g is not None]
        if not used:
            return Verdict(name, SKIPPED, "no tensor of the optimizer has a gradient")
        size = torch.stack([g.norm() / g.numel() ** 0.5 for _, g in used]).max().clamp(min=1e-6)
        planted = [torch.randn_like(p) * 100 * size for p, _ in used]
        for (p, _), plant in zip(used, planted, strict=True):
            p.grad = plant.clone()
        trainer.step(x, y)
        if _cosine([p.grad for p, _ in used], planted) < 0.9:
            often = (
                ""
                if call == 1
                else f" at call {call}: gradients are accumulated over several calls on purpose"
            )
            return Verdict(name, PASS, f"the gradient is cleared{often}", expected)
    return Verdict(
        name,
        FAIL,
        f"a gradient left in .grad is still there after {CALLS} calls of the step: each adds "
        "to those before",
        expected,
        "call optimizer.zero_grad() in every step",
    )


def _cosine(grads: list[torch.Tensor | None], planted: list[torch.Tensor]) -> float:
    pairs = [(g, p) for g, p in zip(grads, planted, strict=True) if g is not None]
    if not pairs:
        return 0.0
    flat, plant = (torch.cat([t.flatten() for t in ts]).double() for ts in zip(*pairs, strict=True))
    return float(torch.dot(flat, plant) / (flat.norm() * plant.norm()).clamp(min=1e-300))
