"""Which jobs can be one stack: those whose configs differ in values only that a stack keeps apart.
What is refused on closer look (trainlab.stack) runs alone, with the reason."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from trainlab.config import keys

# each run's own, as long as all have one or none has
OWN = """
    seed optim.lr optim.weight_decay optim.momentum optim.betas optim.eps
    penalty.l1 penalty.l2 clip.norm clip.value loss.label_smoothing model.dropout groups.lr
    init schedule constraint.max_norm
""".split()  # noqa: SIM905
PRESENT = "optim.weight_decay", "penalty", "clip", "constraint", "model.dropout", "optim.momentum"
OF_NO_RUN = "quiet", "resume", "resume_allow", "repeats", "stack", "sweep", "pause_at"


def key(config: Mapping[str, Any]) -> str:
    """Equal for jobs of one structure: every setting but OWN, and which of PRESENT are there. The
    config may be flat already."""
    flat = keys.flat(dict(config))
    rest = {k: v for k, v in flat.items() if own(k) == "shared"}
    rest |= {k: bool(v) for k, v in flat.items() if own(k) == "present"}
    return json.dumps(rest, sort_keys=True)


@cache
def own(name: str) -> str:
    """Of a key: `shared` by the runs of a stack, only `present` in all or none, or `free`."""
    if within(name, PRESENT):
        return "present"
    return "free" if within(name, (*OWN, *OF_NO_RUN)) and name != "schedule._target_" else "shared"


def within(name: str, roots: Sequence[str]) -> bool:
    return any(f"{name}.".startswith(f"{root}.") for root in roots)


def stackable_jobs(configs: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """The places of the jobs of each stack, in the order in which they come first: one structure,
    and one `pause_at`. A planted fault may lie where no stack looks: such a job is alone."""
    found: dict[str, list[int]] = {}
    for place, config in enumerate(configs):
        flat = keys.flat(dict(config))
        alone = any(within(name, ["fault"]) and value for name, value in flat.items())
        mark = f"{place}" if alone else f"{flat.get('pause_at')} {key(flat)}"
        found.setdefault(mark, []).append(place)
    return list(found.values())
