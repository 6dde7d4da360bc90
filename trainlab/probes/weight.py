"""The size of the weights. Named by conf/probe/."""

from trainlab.observe.capture import Sight
from trainlab.observe.statistics import Norm, Seen, alike, histograms, of_runs, rarely


@of_runs
def weight(sight: Sight) -> Seen:
    """L2 norm of each parameter before the step, and rarely a histogram of each weight matrix."""
    seen: Seen = {f"weight_norm/{name}": Norm(weight) for name, weight in sight.params.items()}
    if not rarely(sight.at):
        return seen
    return seen | histograms("weight", alike(sight.matrices(sight.params), sight.runs))
