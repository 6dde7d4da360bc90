"""The rules of each tool, one class a tool; published_rules.py says how they differ from the tools.
B batch, U units."""

from math import exp, isfinite, log
from statistics import geometric_mean
from typing import Any

import torch
from published_symptoms import Epoch, Rules
from torch import Tensor

from trainlab.observe.capture import StepRecord
from trainlab.training.metrics import classes_of
from trainlab.training.trainer import Trainer


class AutoTrainer(Rules):
    """beta_1 1e-3, beta_2 1e-4, beta_3 70, gamma .7, zeta .03, eta .2, delta .01, Theta .7,
    omega_1 10 in its code."""

    tool = "autotrainer"

    def __init__(self):
        super().__init__()
        self.seen: set[str] = set()  # features stay set
        self.judged = False

    def judge(self, now: Epoch) -> None:
        if self.found:
            return
        again = self.seen & {"abnormal", "nan", "slow"} or (now.progress >= 0.5 and not self.judged)
        self.seen |= self._gradients(now) | self._losses(now)
        if not again:
            return
        self.judged |= now.progress >= 0.5
        hidden = [layer.out.abs().mean().item() for layer in now.record.layers[:-1]]
        has = self.seen.__contains__
        blown = any(mean >= 10 for mean in hidden)
        self.tell("abnormal_data", blown)
        self.tell("abnormal_loss", has("abnormal"))
        self.tell("explode", has("nan") and has("nan_tensor"))
        if has("low") or has("slow"):
            named = next((name for name in ("dying", "explode", "vanish") if has(name)), None)
            if named:
                self.tell(named)
            else:
                self.tell("slow", has("low") and has("slow") and not blown)
        self.tell("oscillate", has("unstable"))

    def _gradients(self, now: Epoch) -> set[str]:
        grads = list(now.record.grads.values())
        if not finite(grads) or not finite(now.weights):
            return {"nan_tensor"}
        norms = [g.norm().item() for g in now.slopes]
        if not norms:
            return set()
        share = sum((g == 0).sum().item() for g in grads) / sum(g.numel() for g in grads)
        ratio = norms[0] / norms[-1] if norms[-1] else float("nan")  # nan fulfils no rule
        rules = {
            "vanish": ratio < 1e-3 and norms[0] < 1e-4,
            "explode": ratio > 70,
            "dying": share >= 0.7,
        }
        return {name for name, hit in rules.items() if hit}

    def _losses(self, now: Epoch) -> set[str]:
        losses = [loss for e in self.past for loss in (e.loss, e.val_loss)]
        if any(not isfinite(loss) or loss >= 1e3 for loss in losses):
            return {"nan"}
        rules = {"abnormal": min(losses) < 0}
        if now.progress >= 0.3:
            train, val = [e.accuracy for e in self.past], [e.val_accuracy for e in self.past]
            rules["unstable"] = _swings(train) >= 0.2 * len(train)
            rules["low"] = max(train) < 0.7 and max(val) < 0.7
            rules["slow"] = max(_gains(train) + _gains(val), default=0.0) < 0.01
        return {name for name, hit in rules.items() if hit}


def finite(tensors: list[Tensor]) -> bool:
    return all(bool(t.isfinite().all()) for t in tensors)


def _gains(values: list[float]) -> list[float]:
    return [b - a for a, b in zip(values, values[1:], strict=False)]


def _swings(values: list[float]) -> int:
    """How many of the successive local maxima are .03 above the minimum of the same number."""
    inner = list(zip(values, values[1:], values[2:], strict=False))
    tops = [b for a, b, c in inner if b >= a and b >= c]
    lows = [b for a, b, c in inner if b <= a and b <= c]
    return sum(top - low >= 0.03 for top, low in zip(tops, lows, strict=False))


class DeepDiagnosis(Rules):
    """Symptoms in the order of its callback. Constancy needs 5 epochs, of the accuracy 20: more
    than a run of 300 steps has."""

    tool = "deepdiagnosis"

    def __init__(self):
        super().__init__()
        self.means: list[tuple[list[float], ...]] = []  # of layers, gradients, weights; by epoch

    def judge(self, now: Epoch) -> None:
        if self.found:
            return
        layers = now.record.layers
        tensors = [layer.out for layer in layers], now.slopes, now.weights
        self.means.append(tuple([t.mean().item() for t in each] for each in tensors))
        forward, gradients, weights = (map(_numerical, means) for means in self.means[-1])
        fifth = len(self.past) % 5 == 0
        checks = [
            ("numerical", any(forward)),
            ("dead_node", now.last and any(map(_mostly_off, layers))),
            ("saturated", fifth and any(map(_beyond_5, layers))),
            ("unchanged", fifth and self._constant(0)),
            ("invalid_loss", not isfinite(now.loss)),
            ("loss_not_decreasing", fifth and _same([e.loss for e in self.past[-5:]])),
            ("invalid_accuracy", not isfinite(now.accuracy) or now.accuracy == 0),
            ("accuracy_not_increasing", self._no_gain()),
            ("numerical", any(gradients)),
            ("vanishing", any(g.abs().mean().item() < 1e-7 for g in now.slopes)),
            ("numerical", any(weights)),
            ("unchanged", fifth and (self._constant(1) or self._constant(2))),
        ]
        first = next((name for name, hit in checks if hit), None)
        if first is not None:
            self.tell(first)

    def _constant(self, which: int) -> bool:
        return any(map(_same, zip(*(means[which] for means in self.means[-5:]), strict=True)))

    def _no_gain(self) -> bool:
        return len(self.past) % 20 == 0 and _same([e.accuracy for e in self.past[-20:]])


def _same(values) -> bool:
    return max(values) == min(values)


def _numerical(mean: float) -> bool:
    return not isfinite(mean) or mean == 0


def _mostly_off(layer: Any) -> bool:
    return layer.name.endswith(".relu") and (layer.out <= 0).float().mean().item() >= 0.7


def _beyond_5(layer: Any) -> bool:
    kind = layer.name.partition(".")[2]
    return kind in ("sigmoid", "tanh") and (layer.x.abs() >= 5).float().mean().item() > 0.5


class TheDeepChecker(Rules):
    """Names are those of its messages, fc_ and conv_ taken together."""

    tool = "thedeepchecker"

    def __init__(self):
        super().__init__()
        self.sizes: dict[str, list[float]] = {}  # mean |tensor| of each look, by kind and name
        self.perfect = self.constant = self.heavy = 0

    def prepare(self, trainer: Trainer, record: StepRecord, x: Tensor, y: Tensor) -> None:
        """Data (the first samples) and initial state. Features are taken together, as its images
        are."""
        std, mean, low, high = (v.item() for v in (x.std(), x.mean(), x.min(), x.max()))
        scaled = abs(high - 1) <= 0.01 and min(abs(low), abs(low + 1)) <= 0.01
        self.tell("features_constant", std == 0)
        standard = abs(std - 1) <= 0.01 and abs(mean) <= 0.01
        self.tell("features_unnormalized", std != 0 and not scaled and not standard)
        logits = record.layers[-1].out
        classes = logits.shape[-1]
        counts = torch.bincount(classes_of(y), minlength=classes)
        shares = counts[counts > 0] / counts.sum()
        perplexity = exp(-float((shares * shares.log()).sum()))
        self.tell("unbalanced_labels", perplexity / classes < 0.5)
        self._init(record)
        once, twice = (
            float(trainer.criterion(logits.repeat(n, 1), torch.cat([y[: len(logits)]] * n)))
            for n in (1, 2)
        )
        self.tell("poor_reduction_loss", once != 0 and abs(twice / once - 2) < 0.01)
        self.tell("poor_init_loss", not abs(once - log(classes)) < log(classes))

    def _init(self, record: StepRecord) -> None:
        kinds = [layer.name.partition(".")[2] for layer in record.layers[:-1]]
        kind = max(set(kinds), key=kinds.count) if kinds else "none"
        for w in (p for p in record.params.values() if p.dim() > 1):
            spread, out, fan = float(w.var()), w.shape[0], w[0].numel()
            self.tell("poor_init", spread <= 1e-8)
            wanted = {"relu": [2 / fan], "tanh": [2 / (fan + out)], "sigmoid": [1 / fan]}
            laws = wanted.get(kind, [law for laws in wanted.values() for law in laws])
            self.tell("need_init", all(_differs(spread, law) for law in laws))

    def judge(self, now: Epoch) -> None:
        self.perfect += now.accuracy == 1.0
        if self.perfect >= 5:  # its patience: it stops there
            return
        self._activations(now)
        record = now.record
        for name, w in record.params.items():
            if not finite([w]):
                self.tell("w_nan")
                continue
            self.tell("w_div" if w.dim() > 1 else "b_div", self._grows(name, w, 1e8))
            if w.dim() > 1:
                self.tell("w_negative", (w < 0).float().mean().item() > 0.95)
                self.tell("w_dead", (w.abs() < 1e-5).float().mean().item() > 0.95)
        for name, g in record.grads.items():
            if g.dim() < 2:
                continue
            if not finite([g]):
                self.tell("gw_nan")
                continue
            self.tell("gw_exp", self._grows("g" + name, g, 1e6))
            sizes = self.sizes["g" + name]
            halved = len(sizes) >= 5 and all(r <= 0.5 for r in _rates(sizes))
            self.tell("gw_van", sizes[-1] < 1e-6 or halved)
        self._updates(record)
        self._losses(now)

    def _grows(self, name: str, tensor: Tensor, most: float) -> bool:
        sizes = self.sizes.setdefault(name, [])
        sizes.append(tensor.abs().mean().item())
        return sizes[-1] > most or (len(sizes) >= 5 and all(r >= 2 for r in _rates(sizes)))

    def _activations(self, now: Epoch) -> None:
        *hidden, logits = now.record.layers
        constant = bool((logits.out.var(0) == 0).any())
        self.constant = self.constant + 1 if constant else 0
        self.tell("out_cons", self.constant >= 5)
        for layer in hidden:
            if not finite([layer.out]):
                self.tell("act_nan")
                continue
            units = layer.out.movedim(1, -1).flatten(0, -2).float()  # (samples, U)
            low = {"sigmoid": 0.0, "tanh": -1.0}.get(layer.name.partition(".")[2])
            if low is not None:
                flat = (2 * (units - low) / (1 - low) - 1).abs().mean(0)
                self.tell("act_sat", (flat > 0.85).float().mean().item() > 0.5)
            else:
                rank = max(1, round(0.95 * len(units)))
                still = units.abs().kthvalue(rank, 0).values < 1e-5
                self.tell("act_dead", still.float().mean().item() > 0.5)
            std = units.std().item()
            outside = 0.5 if std < 0.5 else 2.0 if std > 2 else std
            self.tell("act_unstable", _differs(std**2, outside**2))

    def _updates(self, record: StepRecord) -> None:
        for name, update in record.updates.items():
            weight = record.params[name]
            size = weight.abs().mean().item()
            if weight.dim() < 2 or size == 0 or not finite([update]):
                continue
            ratio = update.abs().mean().item() / size
            self.tell("w_untrained", ratio == 0)
            ratios = self.sizes.setdefault(f"update of {name}", [])
            ratios += [ratio] if ratio else []
            self.tell("w_fast", bool(ratios) and geometric_mean(ratios) > 0.1)
            self.tell("w_slow", bool(ratios) and geometric_mean(ratios) < 1e-4)

    def _losses(self, now: Epoch) -> None:
        losses = [e.loss for e in self.past]
        if not all(map(isfinite, losses)):
            self.tell("nan_loss")
            return
        if len(losses) >= 5 and min(losses) > 0:
            rates = _rates(losses)
            self.tell("stagnated_loss", all(1 - rate < 0.05 for rate in rates))
            self.tell("div_loss", all(rate >= 2 for rate in rates))
        rises = [b > a for a, b in zip(losses, losses[1:], strict=False)]
        turns = sum(a != b for a, b in zip(rises, rises[1:], strict=False))
        self.tell("fluctuated_loss", (len(losses) - turns) / len(losses) < 0.5)
        pairs = torch.tensor([losses, [e.accuracy for e in self.past]])
        if len(losses) > 2:
            self.tell("repr_loss", abs(float(torch.corrcoef(pairs)[0, 1])) < 0.5)
        self.heavy = self.heavy + 1 if now.reg >= 2 else 0
        self.tell("overwhelm_reg", self.heavy >= 5)


def _rates(sizes: list[float]) -> list[float]:
    """The last 4 of size / the one before; nan after a 0, which fulfils no rule."""
    return [b / a if a else float("nan") for a, b in zip(sizes[-5:], sizes[-4:], strict=False)]


def _differs(variance: float, expected: float) -> bool:
    """Its F test: the ratio of the variances is above 2.70554 (alpha .1), whatever the counts."""
    if min(variance, expected) <= 0:
        return variance != expected
    return not max(variance / expected, expected / variance) <= 2.70554
