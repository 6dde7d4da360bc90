"""Preflight: is the set-up sane? One check a file, each a plain function `check(fresh) -> Verdict`.

`fresh()` gives an untouched Trainer of one run at step 0, with the same initial weights every time;
a check may do with it what it likes.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from trainlab.errors import ConfigError, NonFiniteError, TrainlabError
from trainlab.storage import atomic
from trainlab.training.randomness import random_state, restore_random_state
from trainlab.training.trainer import Trainer

PASS, WARN, FAIL, SKIPPED = "PASS", "WARN", "FAIL", "SKIPPED"
Fresh = Callable[[], Trainer]


@dataclass(frozen=True)
class Verdict:
    """What one check saw, what it expected, what to type. `stops`: training cannot work at all.
    `cause`: the name of what is wrong, as findings have it; empty where the check cannot tell."""

    name: str
    status: str  # PASS, WARN, FAIL or SKIPPED
    saw: str
    expected: str = ""
    advice: str = ""
    stops: bool = False
    cause: str = ""


def run_checks(checks: Mapping[str, Callable[[Fresh], Verdict]], fresh: Fresh) -> list[Verdict]:
    """Run the checks in order; each starts from the same random state, which is put back after it.

    A check that raises ends in FAIL with the reason, as does a non-finite loss, after which
    nothing else can be judged; errors that the user can mend (TrainlabError) are raised.
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
        except Exception as error:  # whatever somebody's model or loss raises must not end the run
            line = (str(error).strip().splitlines() or [""])[0]
            verdicts.append(Verdict(name, FAIL, f"it raised {type(error).__name__}: {line}"))
        finally:
            restore_random_state(*before)
    return verdicts


def preflight(
    checks: Mapping[str, Callable[[Fresh], Verdict]],
    fresh: Fresh,
    stop: bool,
    directory: Path,
    show: Any,
) -> list[Verdict]:
    """Run the checks of a run, show them, keep them in verdicts.json.

    Raises ConfigError when training cannot work, or with `stop` where a check failed.
    """
    begun = time.monotonic()
    verdicts = run_checks(checks, fresh)
    show.verdicts(verdicts, time.monotonic() - begun)
    atomic.write_json(directory / "verdicts.json", [asdict(v) for v in verdicts])
    for v in verdicts:
        if v.stops or (v.status == FAIL and stop):
            text = f"preflight {v.name}: {v.saw}, expected {v.expected}; {v.advice}"
            raise ConfigError(text)
    return verdicts
