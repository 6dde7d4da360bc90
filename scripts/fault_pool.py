"""The runs of the fault benchmark, sorted out: which levels of a fault hurt, which healthy runs
were none, what was named. One JSON object a line is one run; `fault_report.report` names its keys.
"""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

Row = dict
NOTHING = "(nothing)"


def binomial_tail(k: int, n: int, p: float) -> float:
    """P(X <= k) of a binomial; in logarithms, for large n."""
    if p <= 0 or k >= n:
        return 1.0
    if p >= 1 or k < 0:
        return 0.0
    top = math.lgamma(n + 1)
    return math.fsum(
        math.exp(
            top - math.lgamma(i + 1) - math.lgamma(n - i + 1)
            + i * math.log(p) + (n - i) * math.log1p(-p)
        )
        for i in range(k + 1)
    )  # fmt: skip


def interval(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson 1934: the p that make k of n just too many, just too few."""
    alpha = (1 - level) / 2

    def root(falling: Callable[[float], float]) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if falling(middle) > 0 else (low, middle)
        return low

    lower = root(lambda p: binomial_tail(k - 1, n, p) - (1 - alpha)) if k else 0.0
    upper = root(lambda p: binomial_tail(k, n, p) - alpha) if k < n else 1.0
    return lower, upper


def t_test(differences: list[float]) -> float:
    """Two-sided p of a paired t test. Student's distribution as a finite sum over the integer
    degrees of freedom: Abramowitz and Stegun 26.7.3 and 26.7.4."""
    n, mean = len(differences), statistics.fmean(differences)
    spread = statistics.stdev(differences)
    if spread <= 1e-12 * abs(mean):
        return 0.0 if mean else 1.0
    df = n - 1
    angle = math.atan(abs(mean) / (spread / math.sqrt(n)) / math.sqrt(df))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = df % 2
    term, total = (cosine if odd else 1.0), 0.0
    for i in range(1 + odd, df, 2):
        total += term
        term *= cosine**2 * i / (i + 1)
    inside = (angle + sine * total) * 2 / math.pi if odd else sine * total
    return max(0.0, 1 - inside)


def cohen(a: list[float], b: list[float]) -> float:
    """Difference of the means / root of the mean variance."""
    gap = statistics.fmean(a) - statistics.fmean(b)
    spread = math.sqrt((statistics.variance(a) + statistics.variance(b)) / 2)
    return gap / spread if spread else (math.copysign(math.inf, gap) if gap else 0.0)


def final(row: Row, who: str, metric: str) -> float:
    value = (row.get(who) or {}).get(metric)
    return math.nan if value is None else float(value)


def hurts(level: list[Row]) -> bool:
    """Whether the runs of one level, one a seed, differ from their twins; see TERMS."""
    if any(row.get("silent") for row in level) or not any("twin" in row for row in level):
        return True
    for metric in ("accuracy", "loss"):
        pairs = [(final(row, "final", metric), final(row, "twin", metric)) for row in level]
        pairs = [(a, b) for a, b in pairs if math.isfinite(b)]
        finite = [(a, b) for a, b in pairs if math.isfinite(a)]
        if pairs and 2 * (len(pairs) - len(finite)) >= len(pairs):
            return True
        if len(finite) == 1 and metric == "accuracy" and abs(finite[0][0] - finite[0][1]) >= 0.05:
            return True
        if len(finite) > 1:
            a, b = map(list, zip(*finite, strict=True))
            differences = [x - y for x, y in finite]
            if t_test(differences) < 0.05 and abs(cohen(a, b)) >= 0.5:
                return True
    return False


def fails(row: Row, rows: Iterable[Row]) -> bool:
    """Whether a run of the healthy pool did not learn, where others of its kind did."""
    kind = "healthy", row.get("variant"), row["subject"]
    same = [r for r in rows if (r["kind"], r.get("variant"), r["subject"]) == kind]
    best = max((final(r, "final", "accuracy") for r in same), default=math.nan)
    return "final" in row and not final(row, "final", "accuracy") >= 0.5 * best


def levels(rows: Iterable[Row]) -> dict[tuple, list[Row]]:
    found = defaultdict(list)
    for row in rows:
        if row["kind"] == "fault":
            found[row["fault"], row["severity"], row["subject"]].append(row)
    return dict(found)


def names(row: Row, least: tuple[str, ...] = ("warning", "error")) -> list[str]:
    return list(dict.fromkeys(f["id"] for f in row["findings"] if f["severity"] in least))


def shown(row: Row) -> list[str]:
    """The names that are given: of the alarms that follow from no other, the first three."""
    folded = {f["id"] for f in row["findings"] if f.get("follows")}
    return [name for name in names(row) if name not in folded][:3]


def earliest(row: Row) -> float:
    steps = (f["since_step"] for f in row["findings"] if f["severity"] in ("warning", "error"))
    return min(steps, default=math.inf)


def planted(row: Row) -> str:
    return row["fault"].replace("_", ".", 1) if row["kind"] == "fault" else "(healthy)"


def first(row: Row) -> str:
    return next(iter(names(row)), NOTHING)


def right_first(row: Row) -> bool:
    return first(row) in row["right"]


def right_among(row: Row) -> bool:
    return bool(set(names(row)[:3]) & set(row["right"]))


class Pool:
    """The runs of one pool, sorted out."""

    def __init__(self, rows: list[Row]):
        self.rows = rows
        self.faulty = [row for row in rows if row["kind"] == "fault"]
        self.unhealthy = [row for row in rows if row["kind"] == "healthy" and fails(row, rows)]
        self.healthy = [r for r in rows if r["kind"] == "healthy" and r not in self.unhealthy]
        self.levels = levels(rows)
        self.benign = [key for key, level in self.levels.items() if not hurts(level)]
        left_out = set(self.benign)
        self.effective = [
            row
            for key, level in self.levels.items()
            if key not in left_out
            for row in level
        ]  # fmt: skip
        self.invariants = [row for row in self.faulty if row.get("invariant")]
        self.confusions = Counter(
            (planted(r), first(r)) for r in self.effective if not right_first(r)
        )

    def given(self) -> tuple[list[str], list[str]]:
        """Right and wrong names."""
        right, wrong = [], []
        for row in self.effective:
            for name in shown(row):
                (right if name in row["right"] else wrong).append(name)
        return right, wrong + [name for row in self.healthy for name in names(row)]
