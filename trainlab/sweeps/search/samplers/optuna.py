"""Ask what was learnt so far. Named by conf/hydra/sweeper/."""

import math
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

from trainlab.errors import ConfigError
from trainlab.sweeps.search.space import Ask, Choice, Space

# the samplers of Optuna 5 that need nothing but a seed; grid, partialfixed want their values too
SEEDED = "BruteForce", "CmaEs", "GP", "NSGAIII", "NSGAII", "QMC", "Random", "TPE"
MISSES = 100  # settings of one batch that were asked for before


def optuna(
    space: Space, *, trials: int = 16, seed: int = 0, batch: int = 8, sampler: str = "tpe",
    directory: Path | None = None,
) -> Generator[list[Ask], list, None]:  # fmt: skip
    """Akiba et al. 2019: `sampler` is a class of optuna.samplers without that word, `tpe` is
    TPESampler. `batch` settings are asked for at once; a repeated one is not run again.

    `optuna.journal` in `directory` keeps all trials, and a search that was cut off asks for them
    first. A failed trial is reported as pruned, which TPE counts among the bad ones. Each trial has
    a sampler seeded by `seed` and its number, so what follows does not depend on when it was cut
    off. Raises ConfigError where Optuna or what the sampler needs is not installed.
    """
    make = maker(sampler)
    study, kept = opened(directory)
    scored: dict[tuple[str, ...], float | None] = {}
    number = 0
    while len(scored) < min(trials, space.size):
        new: dict[tuple[str, ...], list[int]] = {}
        values = {}
        missed = 0
        while len(new) < min(batch, trials - len(scored)) and missed < MISSES:
            params = kept[number] if number < len(kept) else ask(study, space, make, seed, number)
            own = space.at([params[axis.name] for axis in space.axes])
            texts = tuple(own.values())
            if texts in scored:
                tell(study, number, scored[texts])
            missed += texts in scored or texts in new
            if texts not in scored:
                new.setdefault(texts, []).append(number)
                values[texts] = own
            number += 1
        if not new:
            return
        scores = yield [Ask(values[texts]) for texts in new]
        for (texts, numbers), score in zip(new.items(), scores, strict=True):
            scored[texts] = score
            for trial in numbers:
                tell(study, trial, score)


def maker(word: str) -> type:
    """The class of Optuna's that a word names."""
    try:
        from optuna import samplers
    except ImportError as error:
        raise ConfigError(
            "hydra/sweeper = optuna: Optuna is not installed; "
            "type pip install 'optuna>=5,<6', or use hydra/sweeper=random"
        ) from error
    found = {name.lower(): name for name in SEEDED}
    if word not in found:
        raise ConfigError(f"sweep.sampler = {word}: not one of {', '.join(found)}; use tpe")
    return getattr(samplers, f"{found[word]}Sampler")


def opened(directory: Path | None) -> tuple[Any, list[dict[str, float]]]:
    """The study, and the parameters of the trials that it has."""
    import optuna
    from optuna.storages import InMemoryStorage, JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage: Any = InMemoryStorage()
    if directory is not None:
        path = Path(directory, "optuna.journal")
        if path.exists():  # Optuna would append to a line that a kill cut short
            text = path.read_bytes()
            path.write_bytes(text[: text.rfind(b"\n") + 1])
        storage = JournalStorage(JournalFileBackend(str(path)))
    study = optuna.create_study(storage=storage, study_name="trainlab", load_if_exists=True)
    return study, [trial.params for trial in study.trials]


def ask(study: Any, space: Space, make: type, seed: int, number: int) -> dict[str, float]:
    """A new trial: its number in [0, 1] on each axis, which is the middle of a choice's part."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    axes = {
        axis.name: CategoricalDistribution([axis.place(text) for text in axis.texts])
        if isinstance(axis, Choice)
        else FloatDistribution(0, 1)
        for axis in space.axes
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some samplers are experimental, and say so each time
        try:
            study.sampler = make(seed=(seed * 100_003 + number) % 2**32)
            return study.ask(axes).params
        except (ImportError, ValueError) as error:  # bruteforce wants no intervals
            word = make.__name__.removesuffix("Sampler").lower()
            name = getattr(error, "name", None)
            mend = f"pip install {name}, or " if name else ""
            raise ConfigError(f"sweep.sampler = {word}: {error}; {mend}use tpe") from error


def tell(study: Any, number: int, score: float | None) -> None:
    """What a trial came to."""
    from optuna.trial import TrialState

    if score is None or not math.isfinite(score):
        study.tell(number, state=TrialState.PRUNED, skip_if_finished=True)
    else:
        study.tell(number, score, skip_if_finished=True)
