"""A finding: what is wrong, since when, the evidence, what to type."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

ERROR, WARNING, INFO = "error", "warning", "info"
SEVERITIES = ERROR, WARNING, INFO
MOST = 3  # findings shown; the others are only counted
PREFLIGHT = "preflight"  # the tag of a finding that a check made


@dataclass(frozen=True)
class Finding:
    """`layer` is empty for the whole run; `remedy` holds overrides to type, alternatives separated
    by " or "; `tag` is the TensorBoard chart to look at, or PREFLIGHT; `follows` is the id
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
        """The finding in one line of plain text."""
        where = f" in {self.layer}" if self.layer else ""
        since = f"{self.severity} {self.id}{where} since step {self.since_step}"
        return f"{since}: {self.evidence}; try {self.remedy}; see {self.tag}"

    def resolved(self) -> "Finding":
        """Downgraded to info: it no longer holds."""
        return replace(self, severity=INFO, evidence=f"{self.evidence}; it no longer holds")

    def as_info(self) -> "Finding":
        """Downgraded to info: the network learns in spite of it."""
        if self.severity == INFO:
            return self
        return replace(self, severity=INFO, evidence=f"{self.evidence}; the network still learns")


def shown(found: Sequence[Finding]) -> list[str]:
    """At most MOST lines, and one that counts the others, such as consequences of those shown.
    Without preflight's findings, which have their own table."""
    found = [finding for finding in found if finding.tag != PREFLIGHT]
    lines = [f.line() for f in found if f.severity != INFO and not f.follows][:MOST]
    rest = len(found) - len(lines)
    return [*lines, f"{rest} more in findings.json"] if lines and rest else lines


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
