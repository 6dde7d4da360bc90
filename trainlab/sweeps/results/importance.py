"""Which axes of a sweep mattered, by Optuna; an extra that need not be installed."""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from trainlab.errors import as_typed
from trainlab.sweeps.results.edges import numeric

ENOUGH = 8  # settings, below which an importance is noise


def importances(tried: Sequence[tuple[Mapping[str, Any], float]]) -> dict[str, float]:
    """(values, score) of each finished setting -> key -> share, largest first; sum 1.

    PED-ANOVA (Watanabe et al. 2023, https://arxiv.org/abs/2304.10255): how much knowing the value
    tells the best quarter from all. Nothing where less than two keys vary, there are fewer than
    ENOUGH settings, or Optuna is missing.
    """
    columns = {key: [values.get(key) for values, _ in tried] for key in tried[0][0]}
    for key, seen in list(columns.items()):  # optim.betas -> optim.betas[0], optim.betas[1]
        if all(isinstance(v, list) for v in seen) and len(set(map(len, seen))) == 1:
            columns |= {
                f"{key}[{i}]": list(own)
                for i, own in enumerate(zip(*columns.pop(key), strict=True))
            }
    columns = {key: seen for key, seen in columns.items() if len(set(map(as_typed, seen))) > 1}
    if len(columns) < 2 or len(tried) < ENOUGH or not installed():
        return {}
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # else it tells of its study
    ranges, study = {}, optuna.create_study()
    for key, seen in columns.items():
        if numeric(seen):
            low, high = float(min(seen)), float(max(seen))
            wide = low > 0 and high >= 10 * low  # as it was searched, most likely
            ranges[key] = optuna.distributions.FloatDistribution(low, high, log=wide)
        else:
            columns[key] = [as_typed(value) for value in seen]
            choices = sorted(set(columns[key]))
            ranges[key] = optuna.distributions.CategoricalDistribution(choices)
    for place, (_, score) in enumerate(tried):
        params = {key: seen[place] for key, seen in columns.items()}
        trial = optuna.create_trial(params=params, distributions=ranges, value=score)
        study.add_trial(trial)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: float(share) for key, share in found.items()}


def installed() -> bool:
    return importlib.util.find_spec("optuna") is not None
