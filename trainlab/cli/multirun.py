"""A command that starts or resumes a sweep: its plan, its folder, its jobs, its leaderboard."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from trainlab import errors
from trainlab.config import keys
from trainlab.errors import ConfigError


def sweep(request: Any, folder_of: Callable, job: Callable, report: Callable) -> int:
    """Run every job that has not ended, each in a folder of its own. Returns 0, or 8 when jobs
    failed.

    folder_of(digest) gives the folder of the sweep. job(cfg) gives a summary or the exception that
    ended it; report(error, folder) prints that. Everything is checked before a folder is made.
    """
    from trainlab.sweeps.execute import ledger
    from trainlab.sweeps.results import leaderboard

    plan = make_plan(request)
    directory = folder_of(plan["digest"])
    with ledger.locked(directory, request.place), sweep_signals(request.cfg.quiet):
        open_sweep(request, directory, plan)
        function = OneOfMany(job, report, ledger.ended)
        with leaderboard.live(directory, plan["jobs"], request.cfg.quiet):
            request.hydra.multirun("config", function, hydra_overrides(request, directory))
        leaderboard.close(directory, request.cfg.quiet)
    lost = [result for result in ledger.results(directory) if result["state"] in ledger.LOST]
    for result in lost:
        where, text = directory / result["folder"], result["reason"] or "see error.txt there"
        print(f"trainlab: error[sweep]: {where}: {result['state']}: {text}", file=sys.stderr)
    return 8 if lost else 0


@dataclass(frozen=True)
class OneOfMany:
    """One job of a sweep. Its failure is reported and does not end the other jobs; a signal ends
    all of them."""

    job: Callable[..., Any]
    report: Callable[[Exception, Path], int]
    ended: Callable[[Any, Path, Any], None] | None = None

    def __call__(self, cfg: Any) -> str:
        from hydra.core.hydra_config import HydraConfig

        directory = Path(HydraConfig.get().runtime.output_dir)
        outcome = self.job(cfg)
        is_failure = isinstance(outcome, Exception) and not isinstance(outcome, errors.Paused)
        code = self.report(outcome, directory) if is_failure else 0
        if isinstance(outcome, errors.Stopped):
            sys.exit(code)
        if self.ended is not None:
            self.ended(outcome, directory, cfg)
        return directory.name


def make_plan(request: Any) -> dict[str, Any]:
    """The content of sweep.json. Raises ConfigError for a sweep that cannot be run as typed."""
    from hydra.utils import instantiate

    from trainlab.sweeps.execute import drive, ledger
    from trainlab.sweeps.search.space import Space

    require_sweepable(request)
    cfg, n = request.ours, request.ours.repeats
    ours = [o for o in request.overrides if not o.is_hydra_override()]
    space = Space.of(ours)
    sampler = instantiate(request.cfg.hydra.sweeper.sampler)
    settings = drive.sampler_settings(request.cfg.hydra.sweeper.get("takes", ()), cfg.sweep)
    jobs = n * drive.size(space, sampler, settings, cfg)
    axes = {o.key_or_group: axis_spec(o) for o in ours if o.key_or_group in space.keys}
    if "seed" in cfg.sweep.nuisance:
        raise ConfigError("sweep.nuisance = [seed]: settings are compared across seeds; drop it")
    if not axes and request.typed("sweep.trials") is not None:
        text = "no key is varied; add search=lr, or give a key several values"
        raise ConfigError(f"sweep.trials = {cfg.sweep.trials}: {text}")
    if unknown := [key for key in cfg.sweep.nuisance if key not in axes]:
        raise ConfigError(
            f"sweep.nuisance = [{unknown[0]}]: not swept; give it several values, or drop it"
        )
    if n > 1:
        axes["seed"] = [str(cfg.seed + i) for i in range(n)]
    search = [repr(space), keys.values(request.cfg.hydra.sweeper), settings, n]
    search += [ledger.digest(keys.values(other)) for other in request.others]
    return {
        "command": [o.input_line for o in request.overrides],
        "digest": ledger.digest(keys.values(cfg), *search),
        "axes": axes,
        "jobs": jobs,
        "nuisance": list(cfg.sweep.nuisance),
        "repeats": n,
        "monitor": cfg.monitor,
    }


def require_sweepable(request: Any) -> None:
    """Raise ConfigError for settings that a sweep does not take."""
    n = request.ours.repeats
    seed = next((o for o in request.overrides if o.key_or_group == "seed"), None)
    if n > 1 and request.ours.resume is not None:
        raise ConfigError(f"repeats = {n}: not together with resume; resume each run alone")
    if n > 1 and seed is not None and not isinstance(seed.value(), int):
        raise ConfigError(f"repeats = {n}: sets the seeds itself; drop {seed.input_line}")
    (other,) = {*PLACES} - {request.place}
    if (given := request.typed(other)) is not None:
        raise ConfigError(
            f"{other} = {given}: does not name the folder here; use {request.place}={given}"
        )
    if "sampler" not in request.cfg.hydra.sweeper:
        word = request.cfg.hydra.runtime.choices["hydra/sweeper"]
        raise ConfigError(f"hydra/sweeper = {word}: cannot resume after a kill; use grid or random")


def axis_spec(o: Any) -> list[str] | str:
    """An axis as sweep.json stores it: its values, or the text of its interval."""
    return list(o.sweep_string_iterator()) if o.is_discrete_sweep() else o.get_value_string()


def sweep_folder(runs: Path, request: Any, make: Callable, digest: str) -> Path:
    """The folder typed, else that of the newest sweep with this digest, else a new one."""
    from trainlab.sweeps.execute import ledger

    if (given := request.typed(request.place)) is None:
        return ledger.newest(runs, digest) or make()
    directory, typed = Path(given), f"{request.place} = {given}"
    here = ledger.read_manifest(directory)
    if (here or (directory / "multirun.yaml").exists()) and here.get("digest") != digest:
        axes = " x ".join(here.get("axes", {})) or "unknown"
        raise errors.BusyError(f"{typed}: holds another sweep ({axes}); choose another")
    own = ".", "sweep.json"  # also matches the temporary file that a kill left
    if not here and any(not path.name.startswith(own) for path in directory.glob("*")):
        raise errors.BusyError(f"{typed}: holds files that are not a sweep; choose another")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.MachineError(f"{typed}: {error.strerror}; choose another") from error
    return directory


def open_sweep(request: Any, directory: Path, plan: dict[str, Any]) -> None:
    """Write sweep.json; for a sweep that exists, check its data and print how far it is."""
    from trainlab.storage import atomic
    from trainlab.sweeps.execute import ledger

    before = ledger.read_manifest(directory)
    if before != plan:  # the digest is the same, so only the comparison's settings can differ
        atomic.write_json(directory / "sweep.json", plan)
    if not before:
        return
    if request.ours.sweep.retry:
        ledger.forget(directory, ledger.LOST)
    done = len(ledger.results(directory))
    if done:
        ledger.same_data(directory, partial(data_digest, trust=request.ours.trust), request.place)
    if not request.cfg.quiet:
        what = "complete:" if done == plan["jobs"] else "resuming:"
        print(f"{directory}: {what} {done} of {plan['jobs']} jobs have ended; "
              f"start over with {request.place}=NEW", flush=True)  # fmt: skip


def data_digest(cfg: Any, trust: Any) -> str:
    """Digest of the data that a job's config names, as they are now."""
    from trainlab.config.build import Door
    from trainlab.data.sources import load_splits

    return load_splits(Door(trust), *keys.split_own_keys(cfg, "data")).digest()


def hydra_overrides(request: Any, directory: Path) -> list[str]:
    """The overrides passed to Hydra."""
    from hydra.core.override_parser.types import Quote, QuotedString

    typed = [o.input_line for o in request.overrides if o.key_or_group not in PLACES]
    if request.ours.repeats > 1 and request.typed("hydra/launcher") is None:
        typed.append("hydra/launcher=stack")
    text = QuotedString(str(directory), Quote.single).with_quotes()
    return [*typed, f"hydra.sweep.dir={text}", "hydra.mode=MULTIRUN"]


PLACES = "hydra.run.dir", "hydra.sweep.dir"


@contextmanager
def sweep_signals(quiet: bool) -> Iterator[None]:
    """SIGTERM ends a sweep as Ctrl-C does; both print how to resume it."""

    def stop(number: int, frame: object) -> None:
        sys.exit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        before = None
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        print(
            "trainlab: the sweep is stopped; re-run the same command to resume it", file=sys.stderr
        )
        raise
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
