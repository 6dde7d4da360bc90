"""`trainlab compare RUN RUN...`: which settings of runs differ, and what came out.
A folder of a sweep stands for its runs. Reads files only: torch is not imported.

Settings are compared as values: 1e-3 is 0.001. Of a sweep the test split is shown for the best on
validation only, since choosing among its runs by it would use it up; of runs that are named one by
one it is shown for each. The best of a sweep is its leaderboard's: a setting with all its seeds.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from trainlab.config import keys
from trainlab.errors import ConfigError, as_typed
from trainlab.storage import run_folder
from trainlab.sweeps.execute.partition import OF_NO_RUN, within
from trainlab.training.metrics import facts_of

WIDE = 4  # runs, up to which each has a column; more have a row each
MISSING = ""


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code. Raises ConfigError for a wrong folder."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0 if arguments else 2
    runs = [run for text in arguments for run in found(Path(text))]
    if len(runs) < 2:
        raise ConfigError(f"{arguments[0]}: one run; give another folder to compare it with")
    print_comparison(runs, named=len(arguments) == len(runs))
    return 0


def found(folder: Path) -> list[Path]:
    """The run, or the runs of a sweep in the order of their numbers. Raises ConfigError."""
    if any((folder / name).is_file() for name in ("config.yaml", ".hydra/config.yaml")):
        return [folder]  # one that failed early has Hydra's only
    inside = {path.parent for path in folder.glob("*/config.yaml")}
    inside |= {path.parent.parent for path in folder.glob("*/.hydra/config.yaml")}
    if not inside:
        what = "no run there (no config.yaml)" if folder.is_dir() else "no such folder"
        raise ConfigError(f"{folder}: {what}; give the folder of a run or of a sweep")

    numbers = _numbers(folder)  # none in a folder of runs that are no sweep
    return sorted(inside, key=lambda run: (numbers.get(run.name, len(numbers)), run.name))


def config(run: Path) -> dict[str, Any]:
    """Resolved. A run that failed before it wrote its own has Hydra's. Raises ConfigError."""
    from omegaconf import OmegaConf

    if (path := run / "config.yaml").exists():
        told = _read(path, yaml.safe_load)
    else:
        path = run / ".hydra" / "config.yaml"
        told = _read(
            path, lambda text: OmegaConf.to_container(OmegaConf.create(text), resolve=True)
        )
    if "metric" not in told:  # what its figures are is not said
        raise ConfigError(f"{path}: of an earlier version of trainlab; compare with that version")
    return told


def run_settings(run: Path) -> dict[str, Any]:
    """Dotted key -> resolved value, and group -> word. Raises ConfigError."""
    unasked = *OF_NO_RUN, "trust"
    flat = {k: _number(v) for k, v in keys.flat(config(run)).items() if not within(k, unasked)}
    files = [start / "hydra.yaml" for start in run_folder.start_folders(run)]
    written = [path for path in files if path.exists()]
    choices = {}
    if written:
        choices = _read(written[-1], yaml.safe_load)["hydra"]["runtime"]["choices"]
    words = {group: word for group, word in choices.items() if not group.startswith("hydra/")}
    return words | {k: v for k, v in flat.items() if not (k.endswith("._target_") and words)}


def ledger_results(runs: Sequence[Path]) -> dict[Path, dict[str, Any]]:
    """Run -> what the ledger of its sweep says of it, in the order of their numbers."""
    found = {}
    for sweep in {run.parent for run in runs}:
        results = [_read(path, json.loads) for path in sweep.glob("results/*.json")]
        for result in sorted(results, key=lambda result: result["number"]):
            found[sweep / result["folder"]] = result
    return found


def outcome(run: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """What summary.json says: figures, speed, environment; of a run without one, its state.
    result: of the ledger of its sweep, if there is one. Raises ConfigError."""
    told = {"state": result.get("state") or run_folder.read_status(run).get("state", "unknown")}
    path = run / "summary.json"
    if not path.exists():
        return told
    seen = _read(path, json.loads)
    if "metrics" not in seen:
        raise ConfigError(f"{path}: of an earlier version of trainlab; run it again")
    for split, figures in seen["results"].items():
        for name, own in seen["metrics"].items():
            told[f"{split} {name}"] = round(figures[name], own["digits"])
    told |= {key: seen[key] for key in ("best_step", "steps", "parameters")}
    told["seconds"] = round(seen["seconds"], 1)
    told["ms a step"] = round(1e3 * seen["seconds"] / max(seen["steps"], 1), 3)
    return told | {f"environment {key}": value for key, value in seen["environment"].items()}


def _numbers(sweep: Path) -> dict[str, int]:
    """Folder -> number of the jobs of a sweep; nothing where it is none."""
    path = sweep / "jobs.json"
    return _read(path, json.loads) if path.exists() else {}


def _read(path: Path, parse: Any) -> Any:
    try:
        return parse(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{path}: cannot be read ({reason}); give another run") from error


def _number(value: Any) -> Any:
    """A text that is a number, as that number: YAML 1.1 reads 1e-3 as a text."""
    if isinstance(value, list):
        return [_number(item) for item in value]
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def differing(columns: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Key -> its value in each, of the keys whose values are not all the same; true is not 1."""
    names = dict.fromkeys(key for column in columns for key in column)
    rows = {key: [column.get(key, MISSING) for column in columns] for key in names}
    return {
        key: values
        for key, values in rows.items()
        if any(v != values[0] or isinstance(v, bool) != isinstance(values[0], bool) for v in values)
    }


def best(
    runs: Sequence[Path],
    outcomes: Sequence[Mapping[str, Any]],
    results: Mapping[Path, Mapping[str, Any]],
) -> set[int | None]:
    """The places of what is best by `monitor` on validation: the runs of one setting of a sweep
    with a ledger, else one run; none where none finished."""
    if results and len({run.parent for run in runs}) == 1:
        from trainlab.sweeps.results import comparison

        path = runs[0].parent / "sweep.json"
        sweep = _read(path, json.loads) if path.exists() else {}
        first = comparison.settings(list(results.values()), sweep.get("nuisance", ()))[0]
        folders = {run["folder"] for run in first.runs.values()}
        return {place for place, run in enumerate(runs) if run.name in folders}
    first = config(runs[0])
    monitored = facts_of(first)[first["monitor"].removeprefix("val/")]
    name = first["monitor"].replace("/", " ")
    finished = [place for place, told in enumerate(outcomes) if name in told]
    return {min(finished, key=lambda p: monitored.cost(outcomes[p][name]), default=None)}


def print_comparison(runs: Sequence[Path], named: bool) -> None:
    """Print the settings that differ, then the figures; of the environment what differs only."""
    changed = differing([run_settings(run) for run in runs])  # first: it refuses earlier versions
    results = ledger_results(runs)
    outcomes = [outcome(run, results.get(run, {})) for run in runs]
    if not named:
        winners = best(runs, outcomes, results)
        for place, told in enumerate(outcomes):
            if place not in winners:
                for key in [key for key in told if key.startswith("test ")]:
                    del told[key]
    names = dict.fromkeys(key for told in outcomes for key in told)
    figures = {key: [told.get(key, MISSING) for told in outcomes] for key in names}
    if len(runs) > WIDE:
        figures = {key: values for key, values in figures.items() if len(set(values)) > 1}
    for key in [key for key in figures if key.startswith("environment ")]:
        if len(set(figures[key]) - {MISSING}) < 2:
            del figures[key]
    if not changed:
        print("settings: all equal")
    names = labels(runs)
    for title, rows in (("settings that differ", changed), ("result", figures)):
        if rows:
            _print(title, names, rows)


def labels(runs: Sequence[Path]) -> list[str]:
    """Their folders' names; of jobs their sweep, where it is not one, and number; the paths where
    these are alike."""
    places = [run.resolve() for run in runs]
    names = [place.name for place in places]
    sweeps = {place.parent: _numbers(place.parent) for place in places}
    if all(place.name in sweeps[place.parent] for place in places):
        told = [f"{sweeps[place.parent][place.name]:04d}" for place in places]
        if len(sweeps) > 1:
            told = [f"{place.parent.name}/{n}" for place, n in zip(places, told, strict=True)]
        if len(set(told)) == len(runs):
            return told
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


def _print(title: str, names: Sequence[str], rows: Mapping[str, Sequence[Any]]) -> None:
    from trainlab.observe.console import Show, table_of

    texts = {
        key: ["" if v is MISSING else as_typed(v) for v in values] for key, values in rows.items()
    }
    if len(names) <= WIDE:
        table = table_of(title, *names)
        for key, values in texts.items():
            table.add_row(key, *values)
    else:
        table = table_of(title, *texts)
        for place, name in enumerate(names):
            table.add_row(name, *(values[place] for values in texts.values()))
    for column in table.columns:
        column.overflow = "fold"  # what is cut may be what differs
    Show().console.print(table, markup=False)
