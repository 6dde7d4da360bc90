"""Norms of gradients, before clipping. Named by conf/probe/."""

from trainlab.observe.capture import StepRecord
from trainlab.observe.statistics import Norm, Seen, alike, histograms, measures_all_runs, rarely


@measures_all_runs
def gradient(record: StepRecord) -> Seen:
    """L2 norm of the objective's gradient in each activation (of the mean over the batch) and each
    parameter; rarely histograms for the weights with two or more dimensions."""
    seen: Seen = {
        f"gradient_norm/{layer.name}": Norm(layer.grad)
        for layer in record.layers
        if layer.grad is not None
    }
    seen |= {f"weight_gradient_norm/{name}": Norm(grad) for name, grad in record.grads.items()}
    if not rarely(record.at):
        return seen
    return seen | histograms("weight_gradient", alike(record.matrices(record.grads), record.runs))
