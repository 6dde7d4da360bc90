"""The size of the weights. Named by conf/probe/."""

from trainlab.measure import Seen, histograms, norms, of_runs
from trainlab.taps import Sight


@of_runs
def weight(sight: Sight) -> Seen:
    """L2 norm of each parameter before the step, and a histogram of each weight matrix."""
    found = norms("weight_norm", sight.params, sight.runs)
    return found | histograms("weight", sight.matrices(sight.params), sight.runs)
