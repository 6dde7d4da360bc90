"""What the rules look at: every tag's values over the steps, and the questions all rules ask.

No torch, no config: only rows {tag: value} with their step.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import inf, isfinite, nan
from statistics import median
from typing import Any, NamedTuple

Series = list[tuple[int, float]]

LEARNED = 0.98  # share right above which nothing is left to learn
AT_CHANCE = 0.95  # of the loss of the best constant answer
BETTER = 0.05  # share right above that answer's that shows that something was learned


class Episode(NamedTuple):
    """From which step on, and whether it still holds at the last look."""

    since: int
    lasts: bool


class History:
    """The rows of a run, fed in order."""

    def __init__(self) -> None:
        self.series: dict[str, Series] = {}
        self.curves: dict[str, list[float]] = {}
        self.ranges: dict[str, tuple[int, float, float]] = {}  # step, low, high: first histogram

    def feed(self, step: int, row: Mapping[str, Any]) -> None:
        """One row {tag: value}; figures that are not finite may be "nan", "inf", "-inf"."""
        for tag, value in row.items():
            self.series.setdefault(tag, []).append((step, float(value)))

    def of(self, tag: str) -> Series:
        return self.series.get(tag, [])

    def first(self, tag: str) -> float | None:
        return self.of(tag)[0][1] if self.of(tag) else None

    def last(self, tag: str) -> float | None:
        return self.of(tag)[-1][1] if self.of(tag) else None

    def layers(self, quantity: str) -> dict[str, Series]:
        """Layer -> series, from input to output."""
        start = f"{quantity}/"
        found = {tag.removeprefix(start): s for tag, s in self.series.items()}
        return {name: found[name] for name in sorted(found) if f"{start}{name}" in self.series}

    def profiles(self, quantity: str) -> list[tuple[int, dict[str, float]]]:
        """(step, {layer: value}) of each probe, layers from input to output."""
        steps: dict[int, dict[str, float]] = {}
        for layer, series in self.layers(quantity).items():
            for step, value in series:
                steps.setdefault(step, {})[layer] = value
        return sorted(steps.items())

    def near(self, tag: str, step: int) -> float | None:
        """The value at the first row from `step` on, else the last one before it."""
        series = self.of(tag)
        return next((v for at, v in series if at >= step), self.last(tag))

    def before(self, tag: str, step: int) -> float:
        """The value at the last row up to `step`; nan where there is none."""
        return next((v for at, v in reversed(self.of(tag)) if at <= step), nan)

    @property
    def measure(self) -> str:
        """The metric of which a row says what the best constant answer has; accuracy by default."""
        known = [tag.removeprefix("chance/") for tag in self.series if tag.startswith("chance/")]
        return next((name for name in known if name != "loss"), "accuracy")

    @property
    def chance(self) -> float:
        """Loss of the best constant answer; inf where no row says it."""
        return self.first("chance/loss") or inf

    @property
    def start(self) -> float:
        """The loss before the first step, or of the first row where that was not written."""
        loss = self.first("start/loss")
        return loss if loss is not None else (self.first("train/loss") or inf)

    def at_chance(self, step: int) -> bool:
        """Whether the training metric at this step is that of the best constant answer, or
        below it; False where no row says what that is."""
        chance, accuracy = (
            self.first(f"chance/{self.measure}"),
            self.near(f"train/{self.measure}", step),
        )
        return None not in (chance, accuracy) and accuracy < chance + BETTER

    def unlearned(self, step: int, splits: Sequence[str] = ("train", "val")) -> bool:
        """Whether something was left to learn at this step. True where no row says."""
        seen = (self.near(f"{split}/{self.measure}", step) for split in splits)
        return all(accuracy < LEARNED for accuracy in seen if accuracy is not None)

    def warmup_ratio(self) -> float:
        """Largest lr / lr of the first step: what warm-up keeps from the first update."""
        curve = self.curves.get("schedule/lr", [])
        return max(curve) / curve[0] if curve and curve[0] > 0 else 1.0

    def not_halved(self) -> bool:
        """Whether the loss has not even halved."""
        rows = self.of("train/loss")
        return bool(rows) and not rows[-1][1] < 0.5 * min(self.start, self.chance)

    @property
    def base_lr(self) -> float:
        """The largest lr of the training; 0.0 where no row says it."""
        rates = [lr for _, lr in self.of("optim/lr")] + self.curves.get("schedule/lr", [])
        return max((lr for lr in rates if isfinite(lr)), default=0.0)

    def full_speed(self, step: int) -> bool:
        """Whether lr is at least a fifth of its largest: neither warm-up nor the end of a decay.
        Judged by the row before and the row after; before the first row by the curve of lr."""
        rates = self.of("optim/lr")
        if not rates:
            return True
        top = max(lr for _, lr in rates)
        before = [lr for at, lr in rates if at < step][-1:]
        after = [lr for at, lr in rates if at >= step][:1]
        return all(lr >= top / 5 for lr in before + after) and (
            bool(before) or (step > 1 and self.warmup_ratio() < 5)
        )

    def episode(
        self,
        held: Iterable[tuple[int, bool]],
        k: int = 2,
        m: int = 3,
        splits: Sequence[str] = ("train", "val"),
    ) -> Episode | None:
        """Memory: the first stretch where a thing held in k of m looks in a row, or None.

        Only looks with something left to learn, in all `splits`, count. Of fewer than k looks, all.
        """
        looks = list(held)
        flags = [bad and self.unlearned(step, splits) for step, bad in looks]
        k = min(k, len(looks))
        for end in range(len(looks)):
            window = flags[max(end + 1 - m, 0) : end + 1]
            if sum(window) >= k:
                begin = max(end + 1 - m, 0) + window.index(True)
                return Episode(looks[begin][0], sum(flags[-m:]) >= k)
        return None


def finite_median(values: Iterable[float]) -> float:
    """Median of the finite values; nan if there is none."""
    finite = [value for value in values if isfinite(value)]
    return median(finite) if finite else nan
