"""What a person sees while a run goes on: recipe, data and model, verdicts, progress, closing
table.

rich on a terminal; where the output is piped the same tables without colour, and one plain line an
interval.
"""

import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from trainlab.config.keys import as_typed
from trainlab.training.metrics import LOSS, Facts, validated

COLOURS = {"PASS": "green", "WARN": "yellow", "FAIL": "bold red", "SKIPPED": "dim"}


class Show:
    """Prints one run, chapter by chapter. `quiet` prints nothing (notebooks that only want the
    result). With `pause` seconds between its lines there is no progress bar: beside a table."""

    def __init__(self, quiet: bool = False, pause: float = 0.0):
        self.console = Console(quiet=quiet, highlight=False)
        if not self.console.is_terminal:
            self.console = Console(quiet=quiet, highlight=False, width=120)
        self.bar: Progress | None = None
        self.values: dict[str, float] = {}
        self.facts: Mapping[str, Facts] = {"loss": LOSS}
        self.pause, self.last_line = pause, 0.0
        self.lead = ""  # of many runs: what became of them

    def recipe(self, groups: Mapping[str, str], values: Mapping[str, tuple[Any, Any]]) -> None:
        """groups: group -> word; values: dotted key -> (value, default). What differs from the
        default stands out."""
        table = table_of("recipe", "word", "settings")
        for group, word in groups.items():
            inside = {k: v for k, v in values.items() if k.split(".")[0] == group}
            table.add_row(group, _marked(word, inside.get(group)), _settings(inside, f"{group}."))
        rest = {k: v for k, v in values.items() if k.split(".")[0] not in groups}
        rest = {k: v for k, v in rest.items() if "." not in k or v[0] != v[1]}
        table.add_row("run", "", _settings(rest, ""))
        self.console.print(table)

    def data_and_model(self, splits: Any, preprocess: str, model: Any, device: Any) -> None:
        """Shapes of the splits, parameters of every layer."""
        sizes = " / ".join(str(len(split)) for split in (splits.train, splits.val, splits.test))
        shape = "x".join(map(str, splits.shape))
        self.console.print(
            f"data    {splits.name}: {sizes} train / val / test, each {shape}, "
            f"{len(splits.classes)} classes, preprocess {preprocess}"
        )
        table = table_of(
            "layer", "kind", "shapes of its parameters", "parameters", numbers=["parameters"]
        )
        for name, module in model.named_modules():
            own = list(module.named_parameters(recurse=False))
            if own or not list(module.children()):
                shapes = ", ".join(f"{key} {'x'.join(map(str, p.shape))}" for key, p in own)
                count = sum(p.numel() for _, p in own)
                table.add_row(name, type(module).__name__, shapes, f"{count:,}" if count else "")
        count = sum(p.numel() for p in model.parameters())
        table.add_row("all", "", f"on {device}", f"{count:,}", style="bold")
        self.console.print(table)

    def groups(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """The optimizer's groups: what is trained at which lr and weight decay."""
        table = table_of(
            "parameter group", "parameters", "lr", "weight decay", numbers=["parameters"]
        )
        for group in groups:
            count = sum(p.numel() for p in group["params"])
            rates = (f"{group.get(key, 0):g}" for key in ("lr", "weight_decay"))
            table.add_row(group.get("name", ""), f"{count:,}", *rates)
        self.console.print(table)

    def verdicts(self, verdicts: Sequence[Any], seconds: float | None = None) -> None:
        """One row a preflight check, with what was seen and expected; below it what to type where
        it did not pass."""
        if not verdicts:
            return
        took = "" if seconds is None else f" ({seconds:.2f} s)"
        table = table_of(f"preflight{took}", "", "saw", "expected")
        for verdict in verdicts:
            status = Text(verdict.status, COLOURS[verdict.status])
            table.add_row(verdict.name, status, verdict.saw, verdict.expected)
        self.console.print(table)
        for verdict in verdicts:
            if verdict.status in ("WARN", "FAIL") and verdict.advice:
                self.console.print(
                    f"  {verdict.name}: {verdict.advice}", style=COLOURS[verdict.status]
                )

    def start(self, at: int, steps: int, facts: Mapping[str, Facts]) -> None:
        """Begin the progress bar (a terminal) or the plain lines (a pipe). facts: of the loss and
        of the metrics that the rows hold."""
        self.steps, self.since, self.begun, self.facts = steps, time.monotonic(), at, facts
        self.values = {}
        if self.console.is_terminal and not self.pause:
            columns = (
                TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
                BarColumn(bar_width=10),
                TimeRemainingColumn(compact=True),
                TextColumn("left  {task.fields[text]}"),
            )
            self.console.print("train / val", style="dim")
            self.bar = Progress(*columns, console=self.console)
            self.task = self.bar.add_task("train", total=steps, completed=at, text="")
            self.bar.start()

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """The latest figures; a plain line is printed when the validation split was seen or the
        training ended."""
        self.values |= values
        self.last = step
        if self.bar is not None:
            figures = " ".join(f"{name} {self._both(name)}" for name in self.facts)
            text = f"{self.lead}{figures} lr {self.values.get('optim/lr', 0):.2g}"
            self.bar.update(self.task, completed=step, text=text)
        elif step == self.steps or (
            validated(values) and time.monotonic() >= self.last_line + self.pause
        ):
            self.last_line = time.monotonic()
            tags = [f"{split}/{name}" for split in ("train", "val") for name in self.facts]
            tags.append("optim/lr")
            text = "  ".join(f"{t} {self.values[t]:.4g}" for t in tags if t in self.values)
            left = (time.monotonic() - self.since) / max(step - self.begun, 1) * (self.steps - step)
            line = f"step {step}/{self.steps}  {self.lead}{text}  {left:.0f} s left"
            self.note(line.replace("optim/lr", "lr"))

    def _both(self, name: str) -> str:
        tags = f"train/{name}", f"val/{name}"
        return "/".join(f"{self.values[tag]:.3f}" for tag in tags if tag in self.values)

    def stop(self) -> None:
        """End the progress bar, also when the training was interrupted."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def closing(
        self,
        results: Mapping[str, Mapping[str, Any]],
        facts: Mapping[str, Facts],
        best_step: int,
        verdicts: Iterable[Any],
        directory: Path,
    ) -> None:
        """The last table: loss and metrics of each split with the best weights, what did not
        pass, where things are."""
        table = table_of(f"best weights, step {best_step}", *facts, numbers=facts)
        for split, values in results.items():
            table.add_row(split, *(own.text(values[name]) for name, own in facts.items()))
        if validated(self.values):
            last = (own.text(self.values[f"val/{name}"]) for name, own in facts.items())
            table.add_row(f"val at the last step, {self.last}", *last, style="dim")
        self.console.print(table)
        for verdict in verdicts:
            if verdict.status in ("WARN", "FAIL"):
                line = f"{verdict.status} {verdict.name}: {verdict.saw}; {verdict.advice}"
                self.console.print(line, style=COLOURS[verdict.status], soft_wrap=True)
        self.console.print(f"files   {directory}", soft_wrap=True)
        self.console.print(f"curves  tensorboard --logdir {directory}", soft_wrap=True)

    def threads_hint(self, threads: int, at: int) -> None:
        """Say where more threads would pay: steps over 2 ms are arithmetic rather than calls."""
        cores = os.cpu_count() or 1
        seconds = (time.monotonic() - self.since) / max(at - self.begun, 1)
        if threads < cores and seconds > 2e-3 and at - self.begun >= 200:
            self.note(
                f"threads = {threads}: a step took {seconds * 1e3:.1f} ms on {threads} of {cores} "
                f"cores; threads={cores} may be faster on an idle machine (and gives other bits)"
            )

    def notes(self, texts: Iterable[str]) -> None:
        """A line each."""
        for text in texts:
            self.note(text)

    def note(self, text: str) -> None:
        """One line beside the chapters, such as where a run was resumed."""
        if not self.pause:
            self.console.print(text, soft_wrap=True)
        elif not self.console.quiet:
            print(text, flush=True)  # a console of rich's writes past another's live table


def table_of(*columns: str, numbers: Collection[str] = ()) -> Table:
    """An empty table of the house's looks; columns of `numbers` are justified to the right."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left")
    return table


def _marked(text: Any, pair: tuple[Any, Any] | None) -> Text:
    differs = pair is not None and pair[0] != pair[1]
    return Text(f"{text}*" if differs else str(text), "bold yellow" if differs else "")


def _settings(values: Mapping[str, tuple[Any, Any]], prefix: str) -> Text:
    return Text(" ").join(
        _marked(f"{key.removeprefix(prefix)}={as_typed(value)}", (value, usual))
        for key, (value, usual) in values.items()
        if key != prefix.rstrip(".")
    )
