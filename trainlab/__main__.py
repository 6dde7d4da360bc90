"""The front door: a command; or check what was typed, make the folder, import torch and tell the
story.

`python -m trainlab` and the `trainlab` script. hydra.main would make folders for bad values and
compose three times; its parts are called here instead, once each.
"""

import contextlib
import gc
import os
import re
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from trainlab import __version__, cli, errors
from trainlab.config import keys, words
from trainlab.storage import run_folder

RUNS = Path("runs")
UNNAMED = {
    "seed",
    "metric",
    "resume",
    "resume_allow",
    "trust",
    "quiet",
    "data.root",
    "data.download",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code; whatever went wrong is one line on stderr."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        return _dispatch(argv)
    except KeyboardInterrupt:
        print("trainlab: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader left, as in `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return report(error)


def entry() -> None:
    """The console script."""
    sys.exit(main())


def run(*overrides: str) -> dict[str, Any]:
    """`trainlab.run`: one run in this process, errors raised."""
    from trainlab.cli import compose

    with compose.hydra_session() as hydra:
        request = compose.check(hydra, with_saved(overrides))
        if request.ours.repeats > 1:
            raise errors.ConfigError(
                "repeats: makes several runs; use python -m trainlab, or call run() several times"
            )
        outcome, _ = run_single(request)
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _dispatch(argv: Sequence[str]) -> int:
    """Run a command of cli/, print help or version, or compose and run what was typed."""
    if argv and re.fullmatch(r"[^-=][^=]*", argv[0]):
        command = cli.command(argv[0], (*keys.KEYS, *words.groups()))
        if command is not None:
            return command(argv[1:])
    if {"--help", "-h"} & set(argv):
        from trainlab.config import did_you_mean

        print(did_you_mean.help_text(cli.commands().values()))
        return 0
    if "--version" in argv:
        from importlib.metadata import version

        print(f"trainlab {__version__}, Hydra {version('hydra-core')}")
        return 0
    from trainlab.cli import compose

    args = compose.flags(argv)
    with compose.hydra_session(args.config_dir) as hydra:
        if args.shell_completion:
            return hydra.shell_completion("config", args.overrides) or 0
        if args.hydra_help:
            return hydra.hydra_help("config", compose.get_args_parser(), args) or 0
        typed = args.overrides if args.multirun else with_saved(args.overrides)
        request = compose.check(hydra, typed, args.multirun, args.config_dir)
        if args.info is not None:
            return hydra.show_info(args.info, "config", request.first) or 0
        if args.cfg:
            return (
                hydra.show_cfg("config", request.first, args.cfg, args.package, args.resolve) or 0
            )
        if args.multirun or request.ours.repeats > 1:
            from trainlab.cli.multirun import sweep, sweep_folder

            new = partial(wanted, None, "sweep" if args.multirun else name(request))
            return sweep(request, partial(sweep_folder, RUNS, request, new), job, report)
        outcome, directory = run_single(request)
    return report(outcome, directory) if isinstance(outcome, BaseException) else 0


def run_single(request: Any) -> tuple[Any, Path]:
    """Make the folder and run the task in it: (summary or the exception that ended it, folder)."""
    from hydra.core.utils import run_job
    from hydra.types import RunMode

    from trainlab.cli import compose

    cfg = request.cfg
    directory = folder(request)
    cfg.hydra.run.dir, cfg.hydra.mode = str(directory), RunMode.RUN
    # a resume must not overwrite the overrides of the first start
    if (directory / ".hydra" / "overrides.yaml").exists():
        cfg.hydra.output_subdir = run_folder.next_start(directory)
    context = compose.context_of(request.hydra)
    before = run_folder.read_status(directory)
    result = run_job(job, cfg, "hydra.run.dir", None, context, configure_logging=False)
    if cfg.hydra.output_subdir != ".hydra" and before == run_folder.read_status(directory):
        # refused, or only evaluated: its overrides must not count for the next resume
        shutil.rmtree(directory / cfg.hydra.output_subdir, ignore_errors=True)
    return result.return_value, directory


def job(cfg: Any, start: Any = None) -> Any:
    """The task function: the task's summary, or the exception that ended it. A stack passes
    `start(task, ...)`, called in place of `task(...)`."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from trainlab.cli import compose
    from trainlab.config.build import Door

    try:
        hydra = HydraConfig.get()
        if hydra.mode == RunMode.MULTIRUN:  # only the first job was checked
            typed = [line.partition("=")[0] for line in hydra.overrides.task]
            compose.check_composed(cfg, hydra.runtime.choices, typed)
        directory = Path(os.path.relpath(hydra.runtime.output_dir))
        if ".." in directory.parts:
            directory = directory.resolve()
        picked = OmegaConf.to_container(hydra.runtime.choices)
        picked["probe"] = [word for word in cfg.probe if word != "every"]
        picked["metric"] = list(cfg.metric)
        OmegaConf.resolve(cfg)
        door = Door(cfg.trust)
        gc.disable()  # torch brings a million lasting objects; walking them is 15 % of a start
        task = door(cfg.task)
        import torch._dynamo  # noqa: F401  every optimizer imports it, with gc walking the objects

        gc.enable()
        choices = {group: picked.get(group) for group in words.default_words()}
        if start is not None:
            return start(task, cfg, directory, door, choices)
        return task(cfg, directory, door, choices)
    except SystemExit as error:  # in a sweep it would end the other jobs
        return errors.TrainlabError(f"the run asked to exit ({error.code})")
    except (errors.Stopped, errors.Paused) as error:
        alone = hydra.mode == RunMode.RUN
        return errors.resumable(error, directory) if alone else error
    except Exception as error:
        return error


def folder(request: Any) -> Path:
    """The run's folder: the one to resume, the one given, or a new one."""
    cfg, given = request.cfg, request.typed("hydra.run.dir")
    if cfg.resume == "auto" and given is not None:
        cfg.resume = given if (Path(given) / "status.json").exists() else None
    elif cfg.resume == "auto":
        from trainlab.cli import resume

        cfg.resume = resume.unfinished(request.ours, RUNS)
        if cfg.resume is None and not cfg.quiet:
            print("resume=auto: no unfinished run of this recipe; a new run starts")
    place = f"hydra.run.dir = {given}"
    if cfg.resume is not None:
        if given is not None and Path(given).resolve() != Path(cfg.resume).resolve():
            raise errors.ConfigError(
                f"{place}: a run resumes in its own folder, {cfg.resume}; remove hydra.run.dir"
            )
        return Path(cfg.resume)
    directory = wanted(given, name(request))
    if (directory / "metrics.jsonl").exists():
        raise errors.BusyError(
            f"{place}: already holds a run; choose another folder, or resume={given}"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        text = f"{place}: cannot be created ({error.strerror}); choose another folder"
        raise errors.MachineError(text) from error
    return directory


def wanted(given: str | None, named: str) -> Path:
    """The given folder, or a new one in RUNS."""
    return Path(given) if given else run_folder.make(RUNS, f"{time.strftime('%m%d-%H%M')}_{named}")


def name(request: Any) -> str:
    """The typed overrides as the name of a folder: `activation=elu,optim=adam_s0`."""
    parts = [
        f"{o.key_or_group}={re.sub(r'[^A-Za-z0-9_.+-]+', '-', o.get_value_string()).strip('-')}"
        for o in request.overrides
        if o.key_or_group not in UNNAMED and not o.is_hydra_override()
    ]
    return f"{','.join(parts)[:100].rstrip(',') or 'defaults'}_s{request.cfg.seed}"


def with_saved(typed: Sequence[str]) -> list[str]:
    """With resume=DIR: the overrides of that run, with the typed ones over them."""
    where = dict(arg.partition("=")[::2] for arg in typed).get("resume", "null")
    if where in ("", "null", "auto"):
        return list(typed)
    from trainlab.cli import resume

    return resume.overrides(typed, where, RUNS)


def report(error: BaseException, directory: Path | None = None) -> int:
    """Print the error in one line and write its traceback to error.txt. Returns the exit code."""
    text = "".join(traceback.format_exception(error))
    place = "HYDRA_FULL_ERROR=1 shows the traceback"
    if directory is not None and not isinstance(error, errors.Stopped | errors.Paused):
        with contextlib.suppress(OSError):
            (directory / "error.txt").write_text(text)
            place = f"traceback in {directory}/error.txt"
    if "1" in map(os.environ.get, ("HYDRA_FULL_ERROR", "TRAINLAB_DEBUG")):
        print(text, file=sys.stderr, end="")
    from trainlab.config import did_you_mean  # imported only after an error

    mine = did_you_mean.as_trainlab_error(error, place)
    print(errors.one_line(mine), file=sys.stderr)
    return mine.exit_code


if __name__ == "__main__":  # under its own name, so that other processes find `job`
    from trainlab.__main__ import entry

    entry()
