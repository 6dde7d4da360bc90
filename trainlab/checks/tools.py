"""Tools that several checks share: samples, dropout off, redrawn weights, properties of a loss.

B batch, K classes.
"""

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainlab.data.batches import Batches
from trainlab.data.splits import Split
from trainlab.training.metrics import classes_of
from trainlab.training.modules import DROPOUTS, is_matrix
from trainlab.training.trainer import Trainer

Criterion = Callable[[Tensor, Tensor], Tensor]


def images(trainer: Trainer, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` training images x and labels y; fewer if a batch repeats."""
    xs, ys = zip(trainer.batches(0), strict=True)
    while sum(map(len, ys)) < count:
        x, y = trainer.batches(len(ys))
        if any(torch.equal(x.nan_to_num(), earlier.nan_to_num()) for earlier in xs):
            break
        xs, ys = (*xs, x), (*ys, y)
    return torch.cat(xs)[:count], torch.cat(ys)[:count]


def one_pass(batches: Callable, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """x (B, ...), class numbers y (B,) of one epoch, or of its first `most` samples."""
    left = most
    for step in range(getattr(batches, "per_epoch", 1)):
        if left > 0:
            x, y = batches(step)
            yield x[:left], classes_of(y[:left])
            left -= len(y)


def sample(batches: Callable) -> tuple[Tensor, Tensor]:
    """At most 2048 samples and 2**24 values (64 MB) of an epoch: x (N, ...), y (N,)."""
    most = max(2, min(2048, 2**24 // batches(0)[0][0].numel()))
    xs, ys = zip(*one_pass(batches, most), strict=True)
    return torch.cat(xs), torch.cat(ys)


def in_file_order(batches: Callable) -> Callable:
    """The same samples unshuffled, where `batches` allows it."""
    if not isinstance(batches, Batches):
        return batches
    return Batches.in_order(Split(batches.x, batches.y), batches.preprocess, 512)


@contextlib.contextmanager
def no_dropout(model: nn.Module) -> Iterator[None]:
    """Train mode, so that batch norm works as in training, with the rate of every dropout at 0."""
    inside = nn.MultiheadAttention | nn.RNNBase  # these keep their rate in `dropout`
    rates = [(m, "p", m.p) for m in model.modules() if isinstance(m, DROPOUTS)]
    rates += [(m, "dropout", m.dropout) for m in model.modules() if isinstance(m, inside)]
    model.train()
    try:
        for module, name, _ in rates:
            setattr(module, name, 0.0)
        yield
    finally:
        for module, name, rate in rates:
            setattr(module, name, rate)


@torch.no_grad()
def redraw(model: nn.Module) -> None:
    """Draw all parameters anew: what still holds for the outputs holds whatever the weights are."""
    for p in model.parameters():
        if p.is_floating_point():
            p.normal_(0, 3 / math.sqrt(p[0].numel()) if is_matrix(p) else 1)


def no_classes(logits: Tensor, y: Tensor) -> str:
    """Why these are not logits (B, K) and labels (B,), as a sentence; empty if they are."""
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] < 2:
        output = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        return f"the model returns {output}, expected logits (B, K)"
    if y.dtype != torch.int64 or y.shape != logits.shape[:1]:
        return f"y is {y.dtype} of shape {tuple(y.shape)}, expected class numbers int64 (B,)"
    return ""


def probabilities(outputs: Tensor) -> bool:
    """Whether every row of (..., K) is >= 0 and sums to 1."""
    return bool((outputs >= 0).all() and ((outputs.sum(-1) - 1).abs() < 1e-3).all())


def takes_softmax(criterion: Criterion, outputs: Tensor, y: Tensor) -> bool:
    """Whether adding a constant to all outputs (B, K) leaves the loss unchanged, as softmax does.

    Tried with outputs within 0 .. 1, where every loss is defined.
    """
    z = torch.rand_like(outputs) / 2
    here, shifted = criterion(z, y), criterion(z + 0.25, y)
    return bool((here - shifted).abs() <= max(1e-5, 8 * torch.finfo(z.dtype).eps) * here.abs())


def as_outputs(criterion: Criterion, outputs: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    """The function that turns logits into what this model outputs (B, K): often the identity.

    log_softmax for log-probabilities (NLLLoss); softmax for probabilities, unless the loss applies
    softmax itself: then they are a mistake and not a convention.
    """
    if (outputs.logsumexp(-1).abs() < 1e-3).all():
        return lambda logits: logits.log_softmax(-1)
    if probabilities(outputs) and not takes_softmax(criterion, outputs, y):
        return lambda logits: logits.softmax(-1)
    return lambda logits: logits


def floor(criterion: Criterion, outputs: Tensor, y: Tensor) -> float:
    """The least loss that such outputs can reach: min over a of criterion(a * onehot(y), y).

    0 for cross-entropy, hinge and squared error; 0.50 for label smoothing 0.1 and K = 10; -inf
    where the loss has no lower bound.
    """
    shape = as_outputs(criterion, outputs, y)
    target = functional.one_hot(y, outputs.shape[1]).to(outputs.dtype)
    scales = torch.logspace(-2, 3, 201).tolist()  # a ratio of 1.06: within 1e-3 of the minimum
    losses = torch.stack([criterion(shape(a * target), y) for a in scales])
    losses = losses.nan_to_num(nan=math.inf).tolist()
    return -math.inf if losses[-1] < losses[-20] - 1 else min(losses)
