"""Results of the fault benchmark -> the measured part of a page, and the confusion matrix.

    python scripts/fault_report.py RESULTS.jsonl docs/doctor.md docs/confusion.png

One JSON object a line is one run; `report` says what is made of it. In a page that exists the text
up to the line MARKER stays.
"""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from fault_picture import draw
from fault_pool import (
    Pool,
    Row,
    earliest,
    first,
    interval,
    names,
    planted,
    right_among,
    right_first,
)
from published_symptoms import RIGHT

MARKER = "<!-- measured -->"
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
