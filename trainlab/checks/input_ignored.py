"""Does each output depend on its own sample, and only on that? Named by conf/check/."""

from functools import partial

import torch
from torch import Tensor, nn

from trainlab.checks import FAIL, PASS, SKIPPED, WARN, Fresh, Verdict
from trainlab.checks.tools import images, no_dropout, redraw
from trainlab.training.modules import BATCH_NORMS
from trainlab.training.trainer import evaluating

IMAGES, DRAWS = 64, 3
PART = 0.25  # of the pixels; a strided convolution without padding skips up to 23 % of 8x8


def input_ignored(fresh: Fresh) -> Verdict:
    """Take the gradient of the outputs of half the batch with respect to x, in evaluation mode.

    It must be exactly 0 in the other half; otherwise samples leak into each other: verdict
    `batch_leak`. A feature that varies but has gradient 0 everywhere is ignored, unless swapping it
    between samples changes an output. Weights are redrawn between the tries, so that a head that
    starts at 0 raises no alarm.
    """
    trainer, verdict = fresh(), partial(Verdict, "input_ignored")
    model, x = trainer.model, images(trainer, IMAGES)[0]
    if not x.is_floating_point() or len(x) < 2:
        return verdict(SKIPPED, f"the input is {x.dtype} {tuple(x.shape)}, not a float batch")
    varies = (x != x[0]).any(0)
    reached, leak = torch.zeros_like(varies), torch.zeros((), device=x.device)
    with no_dropout(model):
        mixed = bool(_gradients(model, x)[1].any())
    with evaluating(model):
        batch_norm = any(_uses_batch(module) for module in model.modules())
        for draw in range(DRAWS):
            if draw:
                redraw(model)
            inside, outside = _gradients(model, x)
            reached |= (inside != 0).any(0)
            share = outside.abs().max() / inside.abs().max()
            leak = torch.maximum(leak, share.nan_to_num(nan=0.0, posinf=1.0))
        suspect = varies & ~reached
        if suspect.any() and _matter(model, x, suspect):
            suspect.zero_()  # no gradient, but not ignored: thresholds, table look-ups
    if leak > 1e-6:
        saw = f"outputs depend on other samples of the batch, {leak:.2g} times as much as on "
        saw += "their own"
        advice = "look in forward() for a mean, view, roll or norm over the batch dimension"
        expected = "no dependence in evaluation mode"
        cause = "norm.mode" if batch_norm else "graph.batch_leak"
        return Verdict("batch_leak", FAIL, saw, expected, advice, cause=cause)
    varying, ignored = int(varies.sum()), int(suspect.sum())
    expected = "the outputs depend on every feature that varies"
    if ignored == varying > 0:
        saw = f"no output depends on the input (0 of {varying} features), whatever the weights"
        return verdict(FAIL, saw, expected, "use x in forward()", cause="graph.input_ignored")
    saw = f"outputs depend on {varying - ignored} of {varying} features that vary"
    if ignored > (0 if x.dim() == 2 else PART * varying):
        first = ", ".join(map(str, suspect.flatten().nonzero().flatten()[:5].tolist()))
        advice = "look in forward() for a slice, or a product with 0"
        saw = f"{saw}, not features {first} ..."
        return verdict(WARN, saw, expected, advice, cause="graph.input_ignored")
    other = " (in training mode they do, as batch norm has it)" if mixed else ""
    return verdict(PASS, f"{saw}, and not on other samples{other}", expected)


def _uses_batch(module: nn.Module) -> bool:
    """Whether this is a batch norm that uses batch statistics even in evaluation mode."""
    norm = isinstance(module, BATCH_NORMS)
    return norm and (module.training or module.running_mean is None)


def _gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """d out[half] / d x for the rows of that half, and for the other rows.

    `out` is randomly projected, since the plain sum of the outputs may be constant (softmax).
    """
    half = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    half[torch.randperm(len(x), device=x.device)[: len(x) // 2]] = True
    x = x.detach().clone().requires_grad_()
    out = model(x)[half]
    grad = None
    if out.requires_grad:
        total = (out * torch.randn_like(out)).sum()
        (grad,) = torch.autograd.grad(total, x, allow_unused=True)
    grad = torch.zeros_like(x) if grad is None else grad
    return grad[half], grad[~half]


@torch.no_grad()
def _matter(model: nn.Module, x: Tensor, features: Tensor) -> bool:
    """Whether swapping these features between samples changes an output, at equal random state."""
    outputs = []
    for inputs in (x, torch.where(features, x.flip(0), x)):
        torch.manual_seed(0)
        outputs.append(model(inputs))
    return not torch.equal(*outputs)
