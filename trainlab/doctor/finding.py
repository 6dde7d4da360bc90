"""A finding: what is wrong, since when, how it was seen, what to type."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

ERROR, WARNING, INFO = "error", "warning", "info"
SEVERITIES = ERROR, WARNING, INFO
MOST = 3  # findings shown; the rest is counted
PREFLIGHT = "preflight"  # the tag of what a check said


@dataclass(frozen=True)
class Finding:
    """`layer` is empty where the whole run is meant; `remedy` holds overrides to type, alternatives
    parted by " or "; `tag` is the TensorBoard chart to look at, or PREFLIGHT; `follows` is the id
    of the finding that explains this one, if there is one."""

    id: str
    severity: str  # of SEVERITIES
    layer: str
    since_step: int
    evidence: str
    remedy: str
    tag: str
    follows: str = ""

    def line(self) -> str:
        """In one line of plain text."""
        where = f" in {self.layer}" if self.layer else ""
        since = f"{self.severity} {self.id}{where} since step {self.since_step}"
        return f"{since}: {self.evidence}; try {self.remedy}; see {self.tag}"

    def resolved(self) -> "Finding":
        """The same, of what has passed: no alarm any more."""
        return replace(self, severity=INFO, evidence=f"{self.evidence}; it has passed")

    def as_info(self) -> "Finding":
        """The same where it learns all the same: no alarm."""
        return (
            self
            if self.severity == INFO
            else replace(self, severity=INFO, evidence=f"{self.evidence}; it learns all the same")
        )


def shown(found: Sequence[Finding]) -> list[str]:
    """At most MOST lines, and one that counts the others, such as those that follow from one shown.
    What preflight said stands in its own table."""
    found = [finding for finding in found if finding.tag != PREFLIGHT]
    told = [f.line() for f in found if f.severity != INFO and not f.follows][:MOST]
    rest = len(found) - len(told)
    return [*told, f"{rest} more in findings.json"] if told and rest else told


def card(found: Sequence[Finding]) -> str:
    """A markdown table for TensorBoard's text tab."""
    if not found:
        return "nothing found"
    head = "| severity | what | layer | since step | evidence | remedy | see |"
    rows = (
        f"| {f.severity} | {f.id} | {f.layer} | {f.since_step} | {f.evidence} | `{f.remedy}` "
        f"| {f.tag} |"
        for f in found
    )
    return "\n".join([head, "|" + "---|" * 7, *rows])
