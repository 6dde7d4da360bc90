"""Runs that differ in their seed only: mean and standard deviation of what they reached, and of
their curves."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from trainlab.observe import metrics_log


class Bands:
    """Charts of a mean with its band; TensorBoard wants three tags a chart."""

    def __init__(self, tags: Sequence[str]):
        self.tags = tags

    def feed(self, row: Any) -> list:
        return []

    def panels(self) -> list[dict[str, Any]]:
        charts = [
            {"title": tag, "margin": {"series": [{"value": tag, "lower": low, "upper": high}]}}
            for tag, low, high in ((tag, f"{tag}_lower", f"{tag}_upper") for tag in self.tags)
        ]
        return [{"title": "Mean +- std over the seeds", "chart": charts}]


def plus_minus(values: Sequence[float]) -> str:
    return f"{mean(values):.4f} +- {stdev(values):.4f}" if len(values) > 1 else f"{values[0]:.4f}"


def curves(
    folders: Sequence[Path], directory: Path, measures: Sequence[str], name: str = ""
) -> None:
    """Write the mean of the curves of `measures` (loss, accuracy, ...) over the runs, with mean -
    std and mean + std, as a run of its own in `directory`, made anew; at the steps that all runs
    have. `name`: what they have in common."""
    tags = [f"{split}/{measure}" for measure in measures for split in ("train", "val")]
    rows: dict[int, list[dict[str, float]]] = {}
    for folder in folders:
        for step, row in steps(folder, tags).items():
            rows.setdefault(step, []).append(row)
    directory.mkdir(exist_ok=True)
    with metrics_log.Log(directory, keep=0, charts=Bands(tags)) as file:
        file.text("setting", f"mean +- std of {len(folders)} runs: {name}")
        for step, own in sorted(rows.items()):
            if len(own) == len(folders):
                file.scalars(step, band(own))


def steps(folder: Path, tags: Sequence[str]) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for row in metrics_log.rows(folder / "metrics.jsonl"):
        seen = {tag: float(row[tag]) for tag in tags if tag in row}
        if seen:
            found.setdefault(row["step"], {}).update(seen)
    return found


def band(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    bands = {}
    for tag in rows[0]:
        values = [row[tag] for row in rows if tag in row]
        middle, width = mean(values), stdev(values) if len(values) > 1 else 0.0
        bands |= {tag: middle, f"{tag}_lower": middle - width, f"{tag}_upper": middle + width}
    return bands
