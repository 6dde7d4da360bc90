"""Layer-sequential unit-variance initialisation. Named by conf/init/."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from trainlab.nn.init import assign, initialise, keep, weighted
from trainlab.observe.capture import outputs


@torch.no_grad()
def lsuv(
    model: nn.Module,
    x: Tensor,
    *,
    weight: Callable[[Tensor], Tensor],
    gain: float | str = 1.0,
    head: str = "same",
    bias: float | str | None = 0.0,
    zero_gamma: bool = False,
    prior: Tensor | None = None,
    tolerance: float = 0.02,
    tries: int = 5,
) -> None:
    """Mishkin and Matas 2016, https://arxiv.org/abs/1511.06422, algorithm 1: draw by `weight`
    (orthogonal), then divide each layer's weight in turn, from the first to the last, until its
    outputs on the batch x (B, ...) have the variance gain^2, to `tolerance`.

    A layer whose outputs do not vary stays as drawn. Head, bias and
    zero_gamma come last, as in `initialise`.
    """
    gain = 1.0 if gain == "auto" else gain
    initialise(model, x, weight=weight)
    layers = [layer for layer, _ in weighted(model)]
    for layer in outputs(model, layers, x):  # in the order of the calls
        for _ in range(tries):
            std = float(outputs(model, [layer], x)[layer].std())
            if not 0 < std < torch.inf or abs((std / gain) ** 2 - 1) < tolerance:
                break
            assign(layer, layer.weight * (gain / std))
    initialise(model, x, weight=keep, head=head, bias=bias, zero_gamma=zero_gamma, prior=prior)
