"""What TensorBoard shows of the looks inside, made of the rows of metrics.jsonl alone, so that a
resumed run has the same. Everything is a plain dict, the fields of a protocol buffer.
"""

from collections.abc import Iterator, Mapping
from math import inf, isfinite, log10
from typing import Any, NamedTuple

from trainlab.observe import plots

Value = dict[str, Any]
MOST = 256  # looks remembered, evenly spaced; of more every second one is dropped
LINES = 48  # of a picture
DRAWN = {2 * 4**k for k in range(2, 12)}  # looks after which pictures are drawn; and at the end
BANDS = (1e-4, 1e-3, 1e-1)  # of an update: too small below, usual, too large above
PROFILES = {
    "activation_std": "std of the activations, over depth",
    "gradient_norm": "gradient norm of the activations, over depth",
    "update_ratio": "norm(update) / norm(weight), over depth",
}
FLOW = "weight_gradient_norm"
SEEN = {*PROFILES, FLOW, "activation_mean"}

# category -> chart -> patterns of tags, matched from their beginning; every layer is one curve
PANELS = {
    "Activations": {
        "mean": ["activation_mean/"],
        "std, all elements": ["activation_std/"],
        "std of a unit over the samples": ["activation_unit_std/"],
        "saturated share": ["activation_saturated/"],
        "zero share": ["activation_zero/"],
        "dead share": ["activation_dead/"],
    },
    "Gradients": {
        "norm in activations": ["gradient_norm/"],
        "norm in weights": ["weight_gradient_norm/"],
    },
    "Updates": {
        "log10 of norm(update) / norm(weight)": ["update_ratio_log10/", "band/"],
        "norm(weight)": ["weight_norm/"],
    },
}


class ProbedStep(NamedTuple):
    """What one look left: {tag: value} and, by layer, the histogram (counts, low, high)."""

    step: int
    values: dict[str, float]
    spread: dict[str, tuple[list[int], float, float]]


class Charts:
    """Fed with the rows of a run in their order."""

    def __init__(self) -> None:
        self.count, self.stride = 0, 1
        self.kept: list[ProbedStep] = []  # every `stride`th look
        self.latest: ProbedStep | None = None

    def feed(self, row: Mapping[str, Any]) -> list[Value]:
        """What this row adds to its step beside itself."""
        if "end" in row:
            return self.drawn()
        if "histogram" in row:
            kind, _, layer = row["histogram"].partition("/")
            if kind == "activation" and self.latest is not None:
                limits = float(row["low"]), float(row["high"])
                self.latest.spread[layer] = (row["counts"], *limits)
            return []
        values = {tag: float(v) for tag, v in row.items() if tag.partition("/")[0] in SEEN}
        if not values:
            return []
        before = self.drawn() if self.count in DRAWN else []  # the look before is whole only now
        self._keep(ProbedStep(row["step"], values, {}))
        return [*before, *scalars(values)]

    def _keep(self, look: ProbedStep) -> None:
        if self.count % self.stride == 0:
            self.kept.append(look)
        if len(self.kept) > MOST:
            del self.kept[1::2]
            self.stride *= 2
        self.latest = look
        self.count += 1

    def drawn(self) -> list[Value]:
        """The pictures of the looks up to here."""
        if self.latest is None:
            return []
        looks = self.kept if self.kept[-1] is self.latest else [*self.kept, self.latest]
        made = {}
        for quantity, title in PROFILES.items():
            if layers := names(self.latest, quantity):
                few = looks[:: -(-len(looks) // LINES)]
                few = few if few[-1] is self.latest else [*few, self.latest]
                lines = {look.step: line(look, quantity, layers) for look in few}
                bands = BANDS if quantity == "update_ratio" else ()
                made[f"depth/{quantity}"] = plots.profile(title, layers, lines, bands)
        if layers := names(self.latest, FLOW):
            ends = looks[0], self.latest
            pair = [line(look, FLOW, layers) for look in ends]
            title = "gradient flow: gradient norm of each parameter"
            made["depth/gradient_flow"] = plots.bars(
                title, layers, [look.step for look in ends], pair
            )
        if self.latest.spread:
            full = [look for look in looks if look.spread.keys() == self.latest.spread.keys()]
            maps = {layer: [look.spread[layer] for look in full] for layer in self.latest.spread}
            title = "activations: log of the histogram over time"
            steps = [look.step for look in full]
            made["colourful/activation"] = plots.heat_maps(title, steps, maps)
        return [{"tag": tag, "image": image} for tag, image in made.items()]

    def panels(self) -> list[dict[str, Any]]:
        """Categories of custom scalars, closed: PANELS, and mean +- std of each layer seen so
        far."""
        found = [
            {
                "title": title,
                "chart": [{"title": t, "multiline": {"tag": tags}} for t, tags in charts.items()],
                "closed": True,
            }
            for title, charts in PANELS.items()
        ]
        layers = names(self.latest, "activation_std") if self.latest else []
        margins = [{"title": layer, "margin": {"series": [_margin(layer)]}} for layer in layers]
        if margins:
            found.append({"title": "Mean +- std", "chart": margins, "closed": True})
        return found


def names(look: ProbedStep, quantity: str) -> list[str]:
    """Layers from input to output."""
    start = f"{quantity}/"
    return sorted(tag.removeprefix(start) for tag in look.values if tag.startswith(start))


def line(look: ProbedStep, quantity: str, layers: list[str]) -> list[float]:
    return [look.values.get(f"{quantity}/{layer}", float("nan")) for layer in layers]


def _margin(layer: str) -> dict[str, str]:
    """TensorBoard wants exactly three tags."""
    tags = {"value": "mean", "lower": "lower", "upper": "upper"}
    return {key: f"activation_{tag}/{layer}" for key, tag in tags.items()}


def scalars(values: Mapping[str, float]) -> Iterator[Value]:
    """mean - std and mean + std of every layer; log10 of the update ratios, and the bands they are
    read against. What is not finite is left out."""
    found: dict[str, float] = {}
    for tag, value in values.items():
        kind, _, layer = tag.partition("/")
        if kind == "activation_mean":
            std = values.get(f"activation_std/{layer}", inf)
            found[f"activation_lower/{layer}"] = value - std
            found[f"activation_upper/{layer}"] = value + std
        elif kind == "update_ratio":
            found[f"update_ratio_log10/{layer}"] = log10(value) if 0 < value < inf else -inf
    if any(tag.startswith("update_ratio/") for tag in values):
        found |= {f"band/{limit:.0e}": log10(limit) for limit in BANDS}
    for tag, value in found.items():
        if isfinite(value):
            yield {"tag": tag, "simple_value": value}
