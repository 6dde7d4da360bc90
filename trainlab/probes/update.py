"""How far one step moves the weights. Named by conf/probe/."""

from trainlab.measure import Seen, norms, of_runs
from trainlab.taps import Sight


@of_runs
def update(sight: Sight) -> Seen:
    """norm(update) / norm(weight before it), for any optimizer; 1e-3 is healthy (CS231n notes 3).

    Weights with two or more dimensions only: a bias starts at 0. A weight that is 0 has inf, or nan
    if it stays 0.
    """
    changes = sight.matrices(sight.updates)
    moved = norms("update_ratio", changes, sight.runs)
    size = norms("update_ratio", {name: sight.params[name] for name in changes}, sight.runs)
    return {tags: moved[tags] / size[tags] for tags in moved}
