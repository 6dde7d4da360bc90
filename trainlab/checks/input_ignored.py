"""Does every output depend on its own input, and on nothing else? Named by conf/preflight/. B
batch.
"""

import torch
from torch import Tensor, nn

from trainlab.checks import FAIL, PASS, SKIPPED, WARN, Fresh, Verdict
from trainlab.checks.ground import redraw
from trainlab.train import evaluating

IMAGES, DRAWS = 64, 3
PART = 0.25  # of the pixels; a strided convolution without padding leaves out up to 23 % of 8x8


def input_ignored(fresh: Fresh) -> Verdict:
    """One gradient of the outputs of half the batch with respect to x, in evaluation mode.

    Rows of the other half must get exactly 0 (else images leak into each other: verdict
    `batch_leak`). A feature that varies over the batch and gets 0 everywhere is ignored, if
    exchanging it between images changes no output either. The weights are drawn anew between, so
    that a head that starts at 0 is no alarm.
    """
    name, trainer = "input_ignored", fresh()
    model, x = trainer.model, trainer.batches(0)[0][:IMAGES]
    if not x.is_floating_point():
        return Verdict(name, SKIPPED, f"the input is {x.dtype}, which has no gradient")
    reached = torch.zeros(x.shape[1:], dtype=torch.bool, device=x.device)
    leak = torch.zeros((), device=x.device)
    with evaluating(model):
        for draw in range(DRAWS):
            if draw:
                redraw(model)
            inside, outside = _gradients(model, x)
            reached |= (inside != 0).any(0)
            leak = torch.maximum(
                leak, (outside.abs().max() / inside.abs().max()).nan_to_num(posinf=1.0)
            )
        suspect = ~reached & (x != x[0]).any(0)
        ignored = bool(suspect.any()) and not _matters(model, x, suspect)
    if leak > 1e-6:
        return Verdict(
            "batch_leak",
            FAIL,
            f"the output of an image depends on other images of the batch, {leak:.2g} "
            "as strongly as on itself, in evaluation mode",
            "no influence at all",
            "look for a mean, view, reshape, roll or norm over the batch dimension in forward",
        )
    varying = int((x != x[0]).any(0).sum())
    count, expected = (
        int(suspect.sum()) if ignored else 0,
        "every feature that varies has an influence",
    )
    if count == varying > 0:
        return Verdict(
            name,
            FAIL,
            f"the outputs do not depend on the input: none of {varying} features has an "
            "influence, whatever the weights",
            expected,
            "use x in forward",
        )
    saw = f"{varying - count} of {varying} varying features have an influence, images none on each other"
    if count > (0 if x.dim() == 2 else PART * varying):
        first = suspect.flatten().nonzero().flatten()[:5].tolist()
        return Verdict(
            name,
            WARN,
            f"{saw}; ignored: {first}{' ...' if count > 5 else ''}",
            expected,
            "look for a slice or a multiplication with 0 in forward",
        )
    return Verdict(name, PASS, saw, expected)


def _gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """d out[half] / d x for the rows of that half and for the others. A random projection of the
    outputs, since their plain sum may be constant (softmax)."""
    half = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    half[torch.randperm(len(x))[: len(x) // 2]] = True
    x = x.detach().clone().requires_grad_()
    out = model(x)[half]
    grad = None
    if out.requires_grad:
        (grad,) = torch.autograd.grad((out * torch.randn_like(out)).sum(), x, allow_unused=True)
    grad = torch.zeros_like(x) if grad is None else grad
    return grad[half], grad[~half]


@torch.no_grad()
def _matters(model: nn.Module, x: Tensor, features: Tensor) -> bool:
    """Whether exchanging these features between images changes an output, with the same random
    numbers.
    """
    outputs = []
    for inputs in (x, torch.where(features, x.flip(0), x)):
        torch.manual_seed(0)
        outputs.append(model(inputs))
    return not torch.equal(*outputs)
