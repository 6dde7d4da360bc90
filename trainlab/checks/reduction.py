"""Is the loss a mean over the batch? Named by conf/check/. B batch."""

from functools import partial

import torch

from trainlab.checks import PASS, SKIPPED, WARN, Fresh, Verdict
from trainlab.checks.tools import images, no_dropout

IMAGES = 64


@torch.no_grad()
def reduction(fresh: Fresh) -> Verdict:
    """Compare the loss of a batch with that of the batch repeated twice and four times.

    A mean stays the same, also with class weights; a sum doubles, apart from terms that do not
    depend on the batch. With a sum the best lr depends on the batch size.
    """
    trainer, verdict = (
        fresh(),
        partial(Verdict, "reduction", expected="the same loss for both (a mean)"),
    )
    x, y = images(trainer, IMAGES)
    with no_dropout(trainer.model):
        z = trainer.model(x)
    losses = [trainer.criterion(torch.cat([z] * n), torch.cat([y] * n)) for n in (1, 2, 4)]
    one, two, four = torch.stack(losses).double().tolist()
    size = max(abs(one), abs(two)) * 1e-4 + 1e-12
    saw = f"loss {one:.4g} of {len(y)} images, {two:.4g} of the same images repeated twice"
    if abs(two - one) <= size and abs(four - one) <= size:
        return verdict(PASS, saw)
    if abs((four - two) - 2 * (two - one)) <= 4 * size:
        advice = "the loss is a sum: use reduction='mean', or divide optim.lr by batch_size "
        advice += f"({len(y)} here)"
        return verdict(WARN, saw, advice=advice, cause="loss.sum_reduction")
    return verdict(SKIPPED, f"{saw}: neither a mean nor a sum")
