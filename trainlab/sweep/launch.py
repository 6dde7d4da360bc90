"""The jobs of a sweep, stack by stack, each in the folder that it would have had alone."""

import hashlib
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.utils import run_job
from omegaconf import OmegaConf

from trainlab import rundir, spine, story
from trainlab.errors import Stopped
from trainlab.show import Show
from trainlab.sweep.compose import configs
from trainlab.sweep.partition import groups, key
from trainlab.sweep.planner import planned
from trainlab.sweep.together import Paused, together


def launch(
    context: Any, task: Any, master: Any, overrides: Sequence[Sequence[str]], begin: int
) -> list[Any]:
    """Hydra's JobReturn of each job, in order; `task` is multirun.one with its job and report."""
    with rundir.signals() as flag:  # one for all the stories
        return _launched(context, task, master, overrides, begin, flag)


def _launched(
    context: Any, task: Any, master: Any, overrides: Sequence[Sequence[str]], begin: int, flag: Any
) -> list[Any]:
    job, report, ended = task.args
    cfgs = configs(context, master, overrides, begin)
    ours = [OmegaConf.masked_copy(c, [k for k in c if k != "hydra"]) for c in cfgs]
    plain = [spine.values(cfg) for cfg in ours]
    show, returns = Show(quiet=master.quiet), {}
    sweep = Path(str(master.hydra.sweep.dir))
    for number, places in enumerate(groups(plain)):
        shared, structure = Shared(), hashlib.sha256(key(plain[places[0]]).encode()).hexdigest()

        def opened(place: int, shared: "Shared" = shared) -> Any:
            returns[place] = run_job(
                hydra_context=context,
                task_function=partial(job, tell=shared.open),
                config=cfgs[place],
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
                configure_logging=False,
            )
            return returns[place].return_value

        while places:
            first = opened(places[0])
            size = 1
            if isinstance(first, Paused) and len(places) > 1:
                plan = planned(shared.bench, len(places), ours[0].stack.size, sweep, structure)
                size = plan.size
                show.note(f"stack {number}: {len(places)} runs, {plan.told}")
            chunk, places = places[:size], places[size:]
            outcomes = [first, *map(opened, chunk[1:])]
            ready = [o for o in outcomes if isinstance(o, Paused)]
            trained = iter(together(ready, show))
            for place, outcome in zip(chunk, outcomes, strict=True):
                outcome = next(trained) if isinstance(outcome, Paused) else outcome
                kept(outcome, returns[place], ours[place], report, ended)
            stopped = [o for o in outcomes if isinstance(o, Stopped)]
            if flag.raised is not None or stopped:
                sys.exit(rundir.EXIT_CODES.get(flag.raised, 130))
    return [returns[place] for place in range(len(cfgs))]


def kept(outcome: Any, done: Any, cfg: Any, report: Callable, ended: Callable) -> None:
    """Keep what became of a job; a failure is told, and ends no other run."""
    directory = Path(done.hydra_cfg.hydra.runtime.output_dir)
    if isinstance(outcome, Exception):
        report(outcome, directory)
    ended(outcome, directory, cfg)
    done.return_value = directory.name


class Shared:
    """What the jobs of one stack have in common: the data and, where only their seeds differ, the
    verdicts of the preflight."""

    def __init__(self) -> None:
        self.bench: Any = None
        self.checked: dict[str, tuple[list[Any], Path]] = {}  # setting -> verdicts, where they are

    def open(self, told: Any, cfg: Any, directory: Path, door: Any, choices: Any) -> Any:
        """A story up to where it trains; of another task, the whole of it."""
        if getattr(told, "func", None) is not story.train:
            return told(cfg, directory, door, choices)
        chapters = story.chapters(cfg, directory, door, choices, self.prepare, self.check)
        return Paused.at_fit(chapters, lambda: self.latest)

    def prepare(self, cfg: Any, door: Any) -> Any:
        if self.bench is None:
            self.bench = story.prepare(cfg, door)
        self.latest = replace(self.bench, cfg=cfg, door=door)
        return self.latest

    def check(self, bench: Any, directory: Path, show: Any) -> list[Any]:
        setting = spine.digest(spine.values(bench.cfg) | {"seed": 0})
        if setting not in self.checked:
            self.checked[setting] = story.preflight(bench, directory, show), directory
        verdicts, where = self.checked[setting]
        if where != directory and (where / "verdicts.json").exists():
            shutil.copy(where / "verdicts.json", directory / "verdicts.json")
        return verdicts
