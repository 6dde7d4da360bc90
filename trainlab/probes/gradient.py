"""Norms of gradients, before clipping. Named by conf/probe/."""

from trainlab.measure import Seen, histograms, norms, of_runs
from trainlab.taps import Sight


@of_runs
def gradient(sight: Sight) -> Seen:
    """L2 norm of the objective's gradient in each activation (of the mean over the batch) and each
    parameter; histograms for the weights with two or more dimensions."""
    layers = {layer.name: layer.grad for layer in sight.layers if layer.grad is not None}
    found = norms("gradient_norm", layers, sight.runs)
    found |= norms("weight_gradient_norm", sight.grads, sight.runs)
    return found | histograms("weight_gradient", sight.matrices(sight.grads), sight.runs)
