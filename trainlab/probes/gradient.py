"""Norms of gradients, before clipping. Named by conf/probe/."""

from trainlab.observe.capture import Sight
from trainlab.observe.statistics import Norm, Seen, alike, histograms, of_runs, rarely


@of_runs
def gradient(sight: Sight) -> Seen:
    """L2 norm of the objective's gradient in each activation (of the mean over the batch) and each
    parameter; rarely histograms for the weights with two or more dimensions."""
    seen: Seen = {
        f"gradient_norm/{layer.name}": Norm(layer.grad)
        for layer in sight.layers
        if layer.grad is not None
    }
    seen |= {f"weight_gradient_norm/{name}": Norm(grad) for name, grad in sight.grads.items()}
    if not rarely(sight.at):
        return seen
    return seen | histograms("weight_gradient", alike(sight.matrices(sight.grads), sight.runs))
