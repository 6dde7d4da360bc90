"""Results of the fault benchmark -> the measured part of a page, and the confusion matrix.

    python scripts/fault_report.py RESULTS.jsonl docs/doctor.md docs/confusion.png

One JSON object a line is one run; `report` says what is made of it. In a page that exists the text
up to the line MARKER stays.
"""

import json
import math
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from published_rules import RIGHT

MARKER = "<!-- measured -->"
Row = dict
NOTHING = "(nothing)"
TERMS = """A run is *detected* if a finding of level warning or error was made. *Names* of a run
are its distinct findings of these levels in their ranked order; shown are those that follow from
no other, at most three.

*Effective* (the rule of DeepCrime): a level, that is fault x severity x subject, counts if its
final validation accuracies or losses differ from those of the healthy twins (same seeds):
two-sided paired t test p < .05 and |Cohen's d| >= .5 (mean difference / root of the mean of the
two variances), in either direction; or if the fault is declared silent. Seeds whose figures are
not finite while the twin's are count as harmed: half of the seeds are enough, and the test is
done on the others. Differences that are the same for all seeds have p = 0, or 1 if they are 0.
With a single seed there is no test: a level counts if the accuracy differs by .05. All other
levels are benign and left out, except that invariants are counted whatever their effect.

*Healthy* is what was meant to be and learned: a run whose final accuracy is under half of the best
of its kind and subject is left out and listed.

Intervals are Clopper-Pearson's, 95 %, and take runs as independent, which seeds of one level are
not quite.

*Precision of names*: right names / names given, where given are the shown ones of each effective
faulty run and all names of healthy runs, none of which is right. Shares of what was *found early*
are of all effective runs, by the earliest alarm. False alarms: "error" has a
finding of level error, "warning" one of level warning or error."""


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


def most(items: Iterable[str], count: int = 3) -> str:
    found = Counter(items).most_common(count)
    return ", ".join(f"{name} ({n})" for name, n in found)


def told(k: int, n: int) -> str:
    if not n:
        return "no runs"
    low, high = interval(k, n)
    return f"{k} of {n} = {k / n:.1%} [{low:.1%}, {high:.1%}]"


def table(head: str, rows: Iterable[Iterable]) -> str:
    columns = head.split("|")
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def headline(pool: Pool) -> str:
    """The figures against their targets; of a missed one, what causes it."""
    right, wrong = pool.given()

    def share(what: str, rows: list[Row], hit: Callable[[Row], bool], target: float, why) -> tuple:
        lost = [row for row in rows if not hit(row)]
        k, n = len(rows) - len(lost), len(rows)
        return what, told(k, n), f">= {target:.0%}", *_verdict(n, k >= target * n, why, lost)

    def alarms(level: str, least: tuple[str, ...], target: float) -> tuple:
        bad = [row for row in pool.healthy if names(row, least)]
        k, n = len(bad), len(pool.healthy)
        why = lambda rows: most(name for row in rows for name in names(row, least))  # noqa: E731
        what = f"false alarms on healthy runs, {level}"
        return what, told(k, n), f"<= {target:.0%}", *_verdict(n, k <= target * n, why, bad)

    def pairs(rows: list[Row]) -> str:
        return most(f"{planted(row)} -> {first(row)}" for row in rows)

    def faults(rows: list[Row]) -> str:
        return most(map(planted, rows))

    runs = pool.effective
    given = len(right) + len(wrong)
    lines = [
        share("effective faults detected", runs, names, 0.95, faults),
        share("state invariants detected", pool.invariants, names, 1.0, faults),
        share("right name first", runs, right_first, 0.75, pairs),
        share("right name among three", runs, right_among, 0.90, pairs),
        (
            "names given that are right", told(len(right), given), ">= 85%",
            *_verdict(given, len(right) >= 0.85 * given, most, wrong),
        ),
        alarms("error", ("error",), 0.01),
        alarms("warning", ("warning", "error"), 0.03),
        share("found in preflight (step 0)", runs, lambda r: earliest(r) <= 0, 0.50, faults),
        share("found within 50 steps", runs, lambda r: earliest(r) <= 50, 0.90, faults),
    ]  # fmt: skip
    private = [row for row in runs if row.get("private")]
    lines += [
        ("of them through private modules: detected", told(sum(map(bool, map(names, private))),
         len(private)), "", "", ""),
        ("of them through private modules: right name first",
         told(sum(map(right_first, private)), len(private)), "", "", ""),
    ]  # fmt: skip
    return table("|measured|target|verdict|missed because of", lines)


def _verdict(n: int, met: bool, why: Callable, causes: list) -> tuple[str, str]:
    if not n:
        return "not measured", ""
    return ("met", "") if met else ("**missed**", why(causes))


def effects(pool: Pool) -> str:
    count = Counter("silent" if any(r.get("silent") for r in level) else "hurts"
                    for key, level in pool.levels.items() if key not in pool.benign)  # fmt: skip
    text = (
        f"{len(pool.rows)} runs: {len(pool.faulty)} faulty ones of {len(pool.levels)} levels, "
        f"{len(pool.healthy)} healthy ones; {sum(r.get('seconds', 0) for r in pool.rows):.0f} s. "
        f"{count['hurts']} levels differ from their twins, {count['silent']} are declared silent, "
        f"{len(pool.benign)} are benign"
    )
    if not any("twin" in row for row in pool.faulty):
        text = (
            f"{len(pool.faulty)} faulty runs and {len(pool.healthy)} healthy ones. Without twins: "
        )
        text += "every level is counted, the benign ones too"
    if pool.unhealthy:
        lost = Counter(f"{row['variant']} on {row['subject']}" for row in pool.unhealthy)
        text += f". Left out, as they did not learn: {most(lost.elements(), 99)}"
    benign = ", ".join(f"{f} {s:g} on {m}" for f, s, m in sorted(pool.benign, key=str))
    return text + (f": {benign}.\n" if benign else ".\n")


def others(pool: Pool) -> str:
    """The re-implemented rules on the same runs."""

    def line(tool: str) -> tuple[str, ...]:
        runs = [row for row in pool.effective if "published" in row]
        healthy = [row for row in pool.healthy if "published" in row]

        def seen(row: Row) -> list[str]:
            return row["published"].get(tool, [])

        def means(row: Row) -> set[str]:
            return {name for s in seen(row) for name in RIGHT[tool].get(s, ())}

        return (
            tool,
            told(sum(map(bool, map(seen, runs))), len(runs)),
            told(sum(bool(means(row) & set(row["right"])) for row in runs), len(runs)),
            told(sum(map(bool, map(seen, healthy))), len(healthy)),
            most(s for row in healthy for s in seen(row)),
        )

    ours = (
        "trainlab",
        told(sum(map(bool, map(names, pool.effective))), len(pool.effective)),
        told(
            sum(bool(set(names(r)) & set(r["right"])) for r in pool.effective), len(pool.effective)
        ),
        told(sum(map(bool, map(names, pool.healthy))), len(pool.healthy)),
        most(name for row in pool.healthy for name in names(row)),
    )
    head = "rules|detected|right name among all of theirs|alarm on healthy runs|most frequent there"
    return table(head, [*map(line, RIGHT), ours])


def by_fault(pool: Pool) -> str:
    effective = defaultdict(list)
    for row in pool.effective:
        effective[row["fault"]].append(row)

    def line(fault: str) -> tuple:
        rows = effective[fault]
        runs = sum(row["fault"] == fault for row in pool.faulty)
        wrong = (first(row) for row in rows if not right_first(row))
        hits = (sum(map(bool, map(hit, rows))) for hit in (names, right_first, right_among))
        return fault, runs, len(rows), *hits, most(wrong, 1)

    head = "fault|runs|effective|detected|right first|among three|most frequent wrong first name"
    return table(head, map(line, sorted({row["fault"] for row in pool.faulty})))


def by_variant(pool: Pool) -> str:
    variants = defaultdict(list)
    for row in pool.healthy:
        variants[row.get("variant") or "plain"].append(row)

    def line(variant: str) -> tuple:
        rows = variants[variant]
        found = (name for row in rows for name in names(row))
        return variant, len(rows), sum(map(bool, map(names, rows))), most(found)

    return table("healthy runs|runs|with an alarm|names", map(line, sorted(variants)))


def report(rows: list[Row]) -> str:
    """Markdown. A row is one run: pool "fit" or "report", kind "fault" or "healthy", fault, right
    (acceptable names), invariant, silent, severity, subject, private, seed, variant, final and twin
    (validation accuracy and loss), findings (id, severity, since_step; ranked), published (symptoms
    by tool), steps, seconds."""
    pool = Pool([row for row in rows if row["pool"] == "report"])
    fitted = Pool([row for row in rows if row["pool"] == "fit"])
    listed = [f"- {a} was called {b}: {n} runs" for (a, b), n in pool.confusions.most_common()
              if n >= 2] or ["None."]  # fmt: skip
    parts = [
        "## Measured on runs that were not used for fitting", effects(pool), headline(pool), TERMS,
        "## Rules of other tools on the same runs",
        "AUTOTRAINER, DeepDiagnosis and TheDeepChecker: their rules, re-implemented "
        "(scripts/published_rules.py tells the differences), not the tools. A name of theirs is "
        "right if the fault is among all that it could mean.", others(pool),
        "## By fault", by_fault(pool), "## Healthy runs", by_variant(pool),
        "## Confusions of two runs or more", "\n".join(listed) + "\n",
        "## The pool that the thresholds were fitted on", effects(fitted), headline(fitted),
    ]  # fmt: skip
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def draw(rows: list[Row], path: Path, cell: int = 26) -> None:
    """Planted x first name of the effective and healthy runs of pool "report", as a PNG. Green: a
    right name; red: a wrong one, or nothing for a fault; grey: nothing for a healthy run."""
    from PIL import Image, ImageDraw, ImageFont

    pool = Pool([row for row in rows if row["pool"] == "report"])
    counts, good = Counter(), set()
    for row in [*pool.effective, *pool.healthy]:
        key = planted(row), first(row)
        counts[key] += 1
        if right_first(row) if row["kind"] == "fault" else not names(row):
            good.add(key)
    down = sorted({a for a, _ in counts}, key=lambda name: (name.startswith("("), name))
    seen = {b for _, b in counts}
    across = [name for name in down if name in seen]
    across += sorted(seen - set(across), key=lambda name: (name.startswith("("), name))
    totals = Counter()
    for (a, _), n in counts.items():
        totals[a] += n
    font = ImageFont.load_default(13)
    room = 16 + int(max((font.getlength(name) for name in [*down, *across]), default=0))
    size = room + cell * len(across) + 60, room + cell * len(down) + 34
    image = Image.new("RGB", (max(size[0], 420), size[1]), "white")
    pen = ImageDraw.Draw(image)
    for i, name in enumerate(down):
        y = room + i * cell + cell // 2
        pen.text((room - 6, y), name, "black", font, anchor="rm")
        pen.text((room + cell * len(across) + 6, y), f"of {totals[name]}", "grey", font, "lm")
    for j, name in enumerate(across):
        label = Image.new("RGB", (room - 6, cell), "white")
        ImageDraw.Draw(label).text((0, cell // 2), name, "black", font, anchor="lm")
        image.paste(label.rotate(90, expand=True), (room + j * cell, 0))
    for (a, b), n in counts.items():
        x, y = room + across.index(b) * cell, room + down.index(a) * cell
        pen.rectangle((x, y, x + cell, y + cell), _shade(n / totals[a], (a, b) in good, b))
        pen.text((x + cell // 2, y + cell // 2), str(n), "black", font, anchor="mm")
    grid = range(max(len(down), len(across)) + 1)
    right, bottom = room + cell * len(across), room + cell * len(down)
    for k in grid:
        at = room + k * cell
        if k <= len(down):
            pen.line((room, at, right, at), "#dddddd")
        if k <= len(across):
            pen.line((at, room, at, bottom), "#dddddd")
    pen.text((6, bottom + 8), "rows: what was planted; columns: the first name", "black", font)
    image.save(path, "png", optimize=True)


def _shade(share: float, good: bool, name: str) -> tuple[int, int, int]:
    """Paler where it is a smaller part of its row."""
    full = (
        (110, 195, 120) if good and name != NOTHING else (190, 190, 190) if good else (240, 95, 80)
    )
    weight = 0.25 + 0.75 * share
    return tuple(round(255 - (255 - c) * weight) for c in full)


def main(results: str, page: str, picture: str) -> None:
    rows = [json.loads(line) for line in Path(results).read_text().splitlines() if line.strip()]
    old = Path(page).read_text() if Path(page).exists() else "# What the doctor finds\n\n"
    head = old.partition(MARKER)[0].rstrip("\n")
    draw(rows, Path(picture))
    link = f"![confusion matrix]({Path(picture).name})"
    Path(page).write_text(f"{head}\n\n{MARKER}\n\n{report(rows)}\n{link}\n")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
