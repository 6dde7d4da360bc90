"""What the jobs of a sweep reached, side by side."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainlab.sweep import ledger


@contextmanager
def live(directory: Path, jobs: int | None, quiet: bool) -> Iterator[None]:
    if not quiet:
        print(f"{jobs} jobs in {directory}", flush=True)
    yield


def close(directory: Path, quiet: bool) -> None:
    """On validation, with the best weights; the test split chooses nothing, and is shown where
    there is one setting only. With `repeats` the mean and the spread of each."""
    from trainlab.show import Show, table_of

    if quiet:
        return
    table = table_of("job", "state", "val loss", "val accuracy")
    found = ledger.results(directory)
    for result in found:
        seen = result.get("results", {}).get("val")
        figures = [f"{seen[name]:.4f}" if seen else "" for name in ("loss", "accuracy")]
        table.add_row(result["folder"], result["state"], *figures)
    show, notes = Show(), []
    repeats = ledger.told(directory)["repeats"]
    if repeats > 1:
        from trainlab.sweep import spread

        settings = spread.settings([directory / result["folder"] for result in found])
        for number, (name, runs) in enumerate(settings.items()):
            label = f"{name or 'all'}: mean +- std of {len(runs)} of {repeats}"
            table.add_row(label, "", *spread.reached(runs, "val"), style="bold")
            spread.curves(runs, directory / f"mean-{number}")
        if len(settings) == 1:
            loss, accuracy = spread.reached(runs, "test")
            text = f"test: loss {loss}, accuracy {accuracy} over {len(runs)} of {repeats} seeds"
            notes.append(text)
    show.console.print(table)
    show.notes(notes)
    show.note(f"curves  tensorboard --logdir {directory}")
