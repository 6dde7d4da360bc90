"""The doctor: every rule of conf/rule/ over the rows of a run. Needs neither torch nor the run's
config."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from trainlab.config import words
from trainlab.config.build import Door
from trainlab.doctor.causes import ranked
from trainlab.doctor.finding import ERROR, INFO, PREFLIGHT, WARNING, Finding
from trainlab.doctor.history import History
from trainlab.observe import metrics_log
from trainlab.storage import atomic

SEVERITY = {"FAIL": ERROR, "WARN": WARNING}  # of a verdict
RULES = "trainlab.doctor.rules"  # the package that conf/rule/ names functions of


@cache
def rules() -> list[Callable[[History], list[Finding]]]:
    """Those of conf/rule/, in their order: among findings of one severity the first is shown
    first."""
    door = Door([RULES])
    return [door(words.node(part)) for part in words.parts("rule").values()]


class Doctor:
    """Fed with the rows of a run in their order; `findings` at any time, of what it has seen."""

    def __init__(self) -> None:
        self.history = History()

    def feed(self, row: Mapping[str, Any]) -> None:
        """One row of metrics.jsonl. Texts say nothing here."""
        if "curve" in row:
            self.history.curves[row["curve"]] = [float(v) for v in row["values"]]
        elif "histogram" in row:
            limits = row["step"], float(row["low"]), float(row["high"])
            self.history.ranges.setdefault(row["histogram"], limits)
        elif "step" in row:
            values = {tag: value for tag, value in row.items() if tag != "step"}
            self.history.feed(row["step"], values)

    def findings(self) -> list[Finding]:
        """Causes first, then worst first."""
        found: dict[str, Finding] = {}  # of rules of one name the first that found something
        for rule in rules():
            own = rule(self.history)
            found |= {f"{f.id} {f.layer}": f for f in own if f"{f.id} {f.layer}" not in found}
        return ranked(list(found.values()))


def findings(rows: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """What the rows of a run say, worst first."""
    doctor = Doctor()
    for row in rows:
        doctor.feed(row)
    return doctor.findings()


def examine(directory: str | Path) -> list[Finding]:
    """What verdicts.json and metrics.jsonl in a run's folder say, worst first. Raises
    CheckpointError where the latter is damaged, OSError where there is neither."""
    checks = Path(directory) / "verdicts.json"
    seen = of_verdicts(json.loads(checks.read_text())) if checks.exists() else []
    try:
        said = findings(metrics_log.rows(Path(directory) / "metrics.jsonl"))
    except FileNotFoundError:  # preflight ended the run
        if not seen:
            raise
        said = []
    return ranked(merged(seen, said))


def of_verdicts(verdicts: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """What the checks before the training said, as findings: of each cause the worst."""
    found: dict[str, Finding] = {}
    for v in verdicts:
        if v.get("cause") and v["status"] in SEVERITY:
            rest = "", 0, f"{v['name']}: {v['saw']}", v["advice"], PREFLIGHT
            finding = Finding(v["cause"], SEVERITY[v["status"]], *rest)
            if finding.severity == ERROR or v["cause"] not in found:
                found[v["cause"]] = finding
    return list(found.values())


def merged(seen: Iterable[Finding], said: Iterable[Finding]) -> list[Finding]:
    """Findings of the checks and of the rows; of one name one, since step 0."""
    seen, said = {f.id: f for f in seen}, list(said)
    for f in said:
        if f.id in seen and f.severity != INFO:
            first = seen[f.id]
            severity = ERROR if ERROR in (f.severity, first.severity) else WARNING
            evidence = f"{first.evidence}; {f.evidence}"
            seen[f.id] = replace(first, severity=severity, layer=f.layer, evidence=evidence)
    return [*seen.values(), *(f for f in said if f.id not in seen)]


def keep(directory: Path, found: Iterable[Finding]) -> None:
    """Write findings.json."""
    atomic.write_json(directory / "findings.json", [asdict(finding) for finding in found])
