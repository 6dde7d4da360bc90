"""Which jobs can be one stack: those whose configs differ in values only that a stack keeps apart.
What is refused on closer look (trainlab.stack) runs alone, with the reason."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from trainlab import spine

# each run's own, as long as all have one or none has
OWN = """
    seed optim.lr optim.weight_decay optim.momentum optim.betas optim.eps
    penalty.l1 penalty.l2 clip.norm clip.value loss.label_smoothing model.dropout groups.lr
    init schedule constraint.max_norm
""".split()  # noqa: SIM905
PRESENT = "optim.weight_decay", "penalty", "clip", "constraint", "model.dropout", "optim.momentum"
OF_NO_RUN = "quiet", "resume", "resume_allow", "repeats", "stack"


def key(config: Mapping[str, Any]) -> str:
    """Equal for jobs of one stack: every setting but OWN, and which of PRESENT are there."""
    flat = {k: v for k, v in spine.flat(dict(config)).items() if not within(k, OF_NO_RUN)}
    rest = {k: v for k, v in flat.items() if not within(k, OWN) or k == "schedule._target_"}
    rest |= {k: bool(v) for k, v in flat.items() if within(k, PRESENT)}
    return json.dumps(rest, sort_keys=True)


def within(name: str, roots: Sequence[str]) -> bool:
    return any(f"{name}.".startswith(f"{root}.") for root in roots)


def groups(configs: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """The places of the jobs of each stack, in the order in which they come first. A planted fault
    may lie where no stack looks: such a job is alone."""
    found: dict[str, list[int]] = {}
    for place, config in enumerate(configs):
        own = f"{place}" if config.get("fault") else key(config)
        found.setdefault(own, []).append(place)
    return list(found.values())
