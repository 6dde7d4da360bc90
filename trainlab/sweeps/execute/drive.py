"""A sweep from its first job to its last: what the sampler asks for, less what is there already."""

import contextlib
import math
import re
import shutil
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import OmegaConf

from trainlab.config import keys
from trainlab.errors import ConfigError, TrainlabError
from trainlab.storage import run_folder
from trainlab.sweeps.execute import ledger
from trainlab.sweeps.execute.partition import within
from trainlab.sweeps.search.axes import MOST_JOBS
from trainlab.sweeps.search.space import Ask, Interval, Space
from trainlab.training.metrics import facts_of

DROPPED = "sweep", "repeats", "quiet"  # of the command, not of its jobs
# what may make the runs of a sweep differ in length or in when they are judged
LENGTH = "data", "batch_size", "epochs", "max_steps", "evaluate", "experiment", "fault"
LONGEST = 120  # characters of a folder's name that tell what differs


def drive(
    launcher: Any,
    loader: Any,
    master: Any,
    arguments: Sequence[str],
    sampler: Callable,
    takes: Sequence[str],
) -> None:
    """Launch batch after batch until the sampler has no more questions.

    master: the sweep's own config, as Hydra composes it; arguments: the overrides of its jobs;
    takes: what the sampler is given of `sweep.*`, and `directory`, the sweep's folder.
    """
    typed = OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
    directory = Path(str(master.hydra.sweep.dir))
    directory.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(master, directory / "multirun.yaml")
    sweep = Sweep(launcher, directory, master, typed)
    more = {"directory": directory} if "directory" in takes else {}
    space, taken = Space.of(typed), sampler_settings(takes, master.sweep)
    played(sampler(space, **taken, **more), sweep.run)
    sweep.drop()
    tried, most = len(sweep.folders) // len(sweep.seeds), min(taken.get("trials", 0), space.size)
    if tried < most and not master.quiet:
        print(
            f"{directory}: {tried} of {most} settings were tried: no more that are new were found"
        )


def played(asks: Generator[list[Ask], list, None], run: Callable) -> None:
    """Answer every batch that is asked for with its scores."""
    scores = None
    with contextlib.suppress(StopIteration):
        while True:
            scores = run(asks.send(scores))


def sampler_settings(takes: Sequence[str], typed: Any) -> dict[str, Any]:
    """Those of the `sweep.*` settings that a sampler takes, by its YAML."""
    return {key: keys.values(value) for key, value in typed.items() if key in takes}


def size(space: Space, sampler: Callable, settings: dict[str, Any], cfg: Any) -> int:
    """How many settings are tried at most. Raises ConfigError where they are too many or would
    pause too early to be judged, and whatever the sampler itself refuses."""
    if "trials" in settings:
        count = min(settings["trials"], space.size)
    else:
        count = math.prod(min(axis.size, settings.get("points") or 1) if isinstance(axis, Interval)
                          else axis.size for axis in space.axes)  # fmt: skip
    if count > MOST_JOBS:
        raise ConfigError(f"-m: {count:.0f} jobs, more than {MOST_JOBS}; sweep over fewer values")
    first = next(sampler(space, **settings), [])
    if first and first[0].until < 1 and not any(within(key, LENGTH) for key in space.keys):
        refuse_without_evaluation(cfg, first[0].until)
    return int(count) if "trials" in settings else len(first)


def refuse_without_evaluation(cfg: Any, until: float) -> None:
    """Raise ConfigError where no run is judged in the share `until` of its steps."""
    from trainlab.config.build import Door
    from trainlab.data.sources import load_splits

    if cfg.get("fault"):  # may change the length of an epoch
        return
    n, every = (
        len(load_splits(Door(cfg.trust), *keys.split_own_keys(cfg, "data")).train),
        cfg.evaluate.every,
    )
    per_epoch = 1 if cfg.batch_size == "full" else math.ceil(n / int(cfg.batch_size))
    steps = min(cfg.epochs * per_epoch, cfg.max_steps or math.inf)
    pause, text = run_folder.pause_step(until, steps), str(every)
    if pause < (int(text[:-2]) * per_epoch if text.endswith("ep") else int(text)):
        what = f"none in the first {until:.3g} of {steps} steps, by which the best are to be chosen"
        raise ConfigError(f"evaluate.every = {every}: {what}; use evaluate.every={pause}")


@dataclass(frozen=True)
class Job:
    """One run of the plan: where it lies, its overrides, to which share of its steps it goes."""

    number: int
    folder: Path
    overrides: list[str]
    until: float

    @property
    def rung(self) -> tuple[str, float]:
        return self.folder.name, self.until

    def lines(self) -> list[str]:
        """Its overrides as it starts now: anew, or from the checkpoint that a kill, a signal or a
        pause left. Raises BusyError where it still runs."""
        ledger.free(self.folder)
        lines = [*self.overrides, f"hydra.sweep.subdir='{self.folder.name}'"]
        lines += [f"pause_at={self.until!r}"] if self.until < 1 else []
        if any(self.folder.glob("checkpoints/ckpt-*.json")):
            subdir = f"hydra.output_subdir={run_folder.next_start(self.folder)}"
            folder = QuotedString(str(self.folder), Quote.single).with_quotes()
            return [*lines, f"resume={folder}", subdir]
        shutil.rmtree(self.folder, ignore_errors=True)
        return lines


class Sweep:
    """The jobs of one sweep, numbered in the order in which they are asked for."""

    def __init__(self, launcher: Any, directory: Path, master: Any, typed: Sequence[Any]):
        self.launcher, self.directory, self.monitor = launcher, directory, master.monitor
        measures = facts_of({"metric": keys.values(master.metric)})
        self.facts = measures[self.monitor.removeprefix("val/")]
        n = master.repeats
        self.seeds = [str(master.seed + i) for i in range(n)] if n > 1 else [None]
        dropped = (*DROPPED, "seed") if n > 1 else DROPPED
        texts = {o.key_or_group: o.input_line.partition("=")[2] for o in typed}
        self.fixed = {k: text for k, text in texts.items() if not within(k, dropped)}
        self.fixed["quiet"] = "false" if texts.get("quiet") == "false" else "true"
        self.folders: dict[Any, str] = {}  # setting -> its folder's name
        self.numbers = ledger.read_jobs(directory)
        # who failed has a result that says so, unless it is tried again
        scores = ledger.read_rungs(directory).items()
        self.rungs = {rung: score for rung, score in scores if score is not None}

    def run(self, batch: Sequence[Ask]) -> list[float | None]:
        """The score of each Ask, of what is there or of runs now: lower is better, None is lost;
        the mean over the seeds. Raises TrainlabError where jobs did not end."""
        jobs = [[self.job(ask, seed) for seed in self.seeds] for ask in batch]
        ledger.write_jobs(self.directory, self.numbers)  # before any of them ends
        scores, todo = self.scores_so_far([job for own in jobs for job in own])
        if todo:
            lines = [job.lines() for job in todo]
            self.launcher.launch(lines, initial_job_idx=todo[0].number)
            more, left = self.scores_so_far(todo)
            scores |= more
            if left:
                text = f"{self.directory}: {len(left)} jobs did not end; the same command runs them"
                raise TrainlabError(text)
        own_scores = [[scores[job.rung] for job in own] for own in jobs]
        return [None if None in own else sum(own) / len(own) for own in own_scores]

    def job(self, ask: Ask, seed: str | None) -> Job:
        """The job of this setting and seed, in the folder that it had before if it had one."""
        own = ask.values | ({} if seed is None else {"seed": seed})
        key = tuple((name, _plain(text)) for name, text in sorted(own.items()))
        if key not in self.folders:
            number, text = len(self.folders), ",".join(f"{k}={v}" for k, v in own.items())
            shown = re.sub(r"[^\w.,=+-]+", "-", text)[:LONGEST]
            self.folders[key] = f"{number:04d}{'_' if shown else ''}{shown}"
            self.numbers[self.folders[key]] = number
        name = self.folders[key]
        overrides = [f"{k}={v}" for k, v in (self.fixed | own).items()]
        return Job(self.numbers[name], self.directory / name, overrides, ask.until)

    def scores_so_far(
        self, jobs: Sequence[Job]
    ) -> tuple[dict[ledger.Rung, float | None], list[Job]]:
        """Rung -> score of the jobs that are as far as asked; and those that are not."""
        ended = {result["folder"] for result in ledger.results(self.directory)}
        for job in jobs:
            if job.folder.name not in ended:
                ledger.recovered(job.folder)
        results = {result["folder"]: result for result in ledger.results(self.directory)}
        scores, left = {}, {}
        for job in jobs:
            if job.rung in self.rungs:
                scores[job.rung] = self.rungs[job.rung]
            elif job.folder.name in results:
                scores[job.rung] = self.score(results[job.folder.name]["monitor"]["value"])
            elif ledger.paused_at(job.folder) == job.until:
                scores[job.rung] = self.score(ledger.last(job.folder, self.monitor))
            else:
                left[job.number] = job
        if rungs := {
            job.rung: scores[job.rung] for job in jobs if job.until < 1 and job.rung in scores
        }:
            self.rungs |= rungs
            ledger.write_rungs(self.directory, self.rungs)
        return scores, list(left.values())

    def score(self, value: float | None) -> float | None:
        """Lower is better."""
        return value if value is None else self.facts.cost(value)

    def drop(self) -> None:
        """What was paused and never asked for again has ended."""
        for folder in (self.directory / name for name in self.numbers):
            if ledger.paused_at(folder) is not None:
                ledger.record(folder, ledger.saved(folder), "dropped", "stopped by the search")


def _plain(text: str) -> str | float:
    """1e-1 and 0.1 are one setting."""
    try:
        return float(text)
    except ValueError:
        return text
