"""Preflight: is the set-up sane? One check a file, each a plain function `check(fresh) -> Verdict`.

`fresh()` returns a new Trainer of a single run at step 0, always with the same initial weights; a
check may train or change it freely.
"""

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from trainlab.errors import ConfigError, NonFiniteError, TrainlabError
from trainlab.storage import atomic
from trainlab.training.randomness import random_state, restore_random_state
from trainlab.training.trainer import Trainer

PASS, WARN, FAIL, SKIPPED = "PASS", "WARN", "FAIL", "SKIPPED"
Fresh = Callable[[], Trainer]
TORCH = Path(torch.__file__).parent


@dataclass(frozen=True)
class Verdict:
    """What one check saw, what it expected, what to type.

    stops: training cannot work at all.
    cause: the name of the cause, as in the doctor's findings; empty where it cannot be told.
    error: the traceback, if the check itself raised and therefore judged nothing.
    """

    name: str
    status: str  # PASS, WARN, FAIL or SKIPPED
    saw: str
    expected: str = ""
    advice: str = ""
    stops: bool = False
    cause: str = ""
    error: str = ""


def run_checks(checks: Mapping[str, Callable[[Fresh], Verdict]], fresh: Fresh) -> list[Verdict]:
    """Run the checks in order; each starts from the same random state, which is restored after it.

    A check that raises is SKIPPED, with the place and the traceback. A non-finite loss is a FAIL,
    after which nothing else can be judged. Errors that the user can fix (TrainlabError) propagate.
    """
    verdicts: list[Verdict] = []
    for name, check in checks.items():
        if any(v.name == "initial_loss" and v.stops for v in verdicts):
            verdicts.append(Verdict(name, SKIPPED, "the loss is not finite: see initial_loss"))
            continue
        before = random_state()
        try:
            verdicts.append(check(fresh))
        except NonFiniteError as error:
            failed = Verdict(name, FAIL, str(error), "a finite loss", stops=True)
            verdicts.append(replace(failed, cause="numeric.nonfinite"))
        except TrainlabError:
            raise
        except Exception as error:  # an error in the user's model or loss must not end the run
            verdicts.append(_raised(name, error))
        finally:
            restore_random_state(*before)
    return verdicts


def _raised(name: str, error: Exception) -> Verdict:
    """The verdict of a check that raised: the error, and the last line of code outside torch."""
    line = (str(error).strip().splitlines() or [""])[0]
    frames = traceback.extract_tb(error.__traceback__)
    outside = [f for f in frames if not Path(f.filename).is_relative_to(TORCH)]
    last = (outside or frames)[-1]
    place = f"{Path(last.filename).name}:{last.lineno} in {last.name}"
    saw = f"it raised {type(error).__name__} at {place}: {line}"
    return Verdict(name, SKIPPED, saw, error="".join(traceback.format_exception(error)))


def preflight(
    checks: Mapping[str, Callable[[Fresh], Verdict]],
    fresh: Fresh,
    stop: bool,
    directory: Path,
    show: Any,
) -> list[Verdict]:
    """Run the checks, print the verdicts and write them to verdicts.json; the tracebacks of checks
    that raised go to checks-error.txt.

    Raises ConfigError where training cannot work at all, and with `stop` after any FAIL.
    """
    begun = time.monotonic()
    verdicts = run_checks(checks, fresh)
    show.verdicts(verdicts, time.monotonic() - begun)
    atomic.write_json(directory / "verdicts.json", [asdict(v) for v in verdicts])
    raised = {v.name: v.error for v in verdicts if v.error}
    if raised:
        path = directory / "checks-error.txt"
        atomic.write(path, "\n".join(f"{k}\n{text}" for k, text in raised.items()).encode())
        show.note(f"{', '.join(raised)} raised an error; the traceback is in {path}")
    for v in verdicts:
        if v.stops or (v.status == FAIL and stop):
            text = f"preflight {v.name}: {v.saw}, expected {v.expected}; {v.advice}"
            raise ConfigError(text)
    return verdicts
