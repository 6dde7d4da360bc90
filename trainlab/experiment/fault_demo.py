"""`fault=WORD`: the broken run, its healthy twin, and the findings of both. Named by
conf/task/."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trainlab.config import keys, words
from trainlab.doctor.examine import examine
from trainlab.doctor.finding import INFO
from trainlab.errors import ConfigError, NonFiniteError
from trainlab.experiment.phases import train
from trainlab.observe import metrics_log
from trainlab.observe.console import Show, table_of
from trainlab.training.metrics import facts_of


def teach(
    cfg: DictConfig, directory: Path, door: Callable, choices: dict[str, Any]
) -> dict[str, Any]:
    """The run with the fault, in `directory`; then the same without it, in `directory`/healthy.

    Returns the summary of the broken run, or raises its error after the twin was trained.
    """
    word = choices["fault"]
    if not cfg.get("fault"):
        raise ConfigError("task = teach: needs a fault to demonstrate; add fault=WORD")
    show = Show(quiet=cfg.quiet)
    name, severity = named(word), f"fault.severity={cfg.fault.severity:g}"
    show.note(f"fault   {name} ({severity}): {words.source('fault', word)}")
    ended = None
    try:
        summary = train(cfg, directory, door, choices)
    except (NonFiniteError, ConfigError) as error:  # diverged, or stopped by preflight
        if not (directory / "verdicts.json").exists():
            raise
        ended = error
    twin = directory / "healthy"
    show.note("\nhealthy twin: the same run without the fault")
    shutil.rmtree(twin, ignore_errors=True)  # of a shorter run, where this one was resumed
    twin.mkdir()
    plain = OmegaConf.merge(cfg, {"quiet": True, "resume": None})
    plain.fault = {}
    train(plain, twin, door, choices | {"fault": "none"})
    compare(show, name, directory, twin, list(facts_of(keys.values(cfg))))
    if ended is not None:
        raise ended
    return summary


def named(word: str) -> str:
    """`init_zero` -> `init.zero`, as findings are named."""
    return word.replace("_", ".", 1)


def compare(show: Show, name: str, broken: Path, healthy: Path, measures: Sequence[str]) -> None:
    """Print the last figures and the findings of both runs, and whether the fault was found."""
    tags = [f"{split}/{measure}" for split in ("train", "val") for measure in measures]
    last = [final(folder, tags) for folder in (broken, healthy)]
    found = [[f for f in examine(folder) if f.severity != INFO] for folder in (broken, healthy)]
    table = table_of("at the last step", "broken", "healthy")
    for tag in tags:
        table.add_row(tag, *(f"{row.get(tag, float('nan')):.4g}" for row in last))
    table.add_row("findings", *("\n".join(f.id for f in run[:3]) or "none" for run in found))
    show.console.print(table)
    places = [place for place, f in enumerate(found[0], 1) if f.id == name]
    text = f"finding no. {places[0]}" if places else "not found"
    since = next((f.since_step for f in found[0] if f.id == name), None)
    when = {None: "", 0: ", before training"}.get(since, f", since step {since}")
    show.note(f"fault   {name}: {text}{when}")
    show.note(f"curves  tensorboard --logdir {broken}")


def final(folder: Path, tags: Sequence[str]) -> dict[str, float]:
    """The last value of each tag."""
    values: dict[str, float] = {}
    if not (folder / "metrics.jsonl").exists():  # it never trained
        return values
    for row in metrics_log.rows(folder / "metrics.jsonl"):
        if "step" in row and "histogram" not in row:
            values |= {tag: float(value) for tag, value in row.items() if tag in tags}
    return values
