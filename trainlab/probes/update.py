"""How far one step moves the weights. Named by conf/probe/."""

from trainlab.observe.capture import StepRecord
from trainlab.observe.statistics import Norm, Seen, measures_all_runs


@measures_all_runs
def update(record: StepRecord) -> Seen:
    """norm(update) / norm(weight before it), for any optimizer; 1e-3 is healthy (CS231n notes 3).

    Weights with two or more dimensions only: a bias starts at 0. A weight that is 0 has inf, or nan
    if it stays 0.
    """
    return {
        f"update_ratio/{name}": Norm(change, record.params[name])
        for name, change in record.matrices(record.updates).items()
    }
