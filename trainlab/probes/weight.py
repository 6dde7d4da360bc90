"""The size of the weights. Named by conf/probe/."""

from trainlab.observe.capture import StepRecord
from trainlab.observe.statistics import Norm, Seen, alike, histograms, measures_all_runs, rarely


@measures_all_runs
def weight(record: StepRecord) -> Seen:
    """L2 norm of each parameter before the step, and rarely a histogram of each weight matrix."""
    seen: Seen = {f"weight_norm/{name}": Norm(weight) for name, weight in record.params.items()}
    if not rarely(record.at):
        return seen
    return seen | histograms("weight", alike(record.matrices(record.params), record.runs))
