"""Figures of many layers and runs at once are those of each alone, by the plain formulae."""

import math

import pytest
import torch
from benches import bench_of
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from trainlab.observe.capture import StepRecord, capture_around, capture_step
from trainlab.observe.saturation import saturated, slope_of
from trainlab.observe.statistics import (
    BINS,
    MOST,
    Histogram,
    alike,
    counted,
    measure,
    measured,
    of_run,
    rarely,
)
from trainlab.probes.activation import activation
from trainlab.probes.gradient import gradient
from trainlab.probes.update import update
from trainlab.probes.weight import weight
from trainlab.stack import Stack

PROBES = {"activation": activation, "gradient": gradient, "update": update, "weight": weight}


def moments_alone(values):
    """(B, U, ...) -> mean, pooled std, mean std of a unit: the formula of one layer."""
    values = values.float() if values.dtype.itemsize < 4 else values
    over = [d for d in range(values.dim()) if d != 1]
    means = values.mean(over, keepdim=True)
    variances = (values - means).square().mean(over)
    pooled = variances.mean() + means.var(correction=0)
    return means.mean(), pooled.sqrt(), variances.sqrt().mean()


def histogram_alone(values):
    """Counts by torch.histc, and the limits."""
    flat = (values.float() if values.dtype.itemsize < 4 else values).reshape(-1)
    if flat.numel() > MOST:
        flat = flat[:: -(-flat.numel() // MOST) | 1]
    low, high = flat.aminmax()
    unit = (flat - low).div_((high - low).clamp_min_(torch.finfo(flat.dtype).tiny))
    return torch.histc(unit, BINS, 0, 1).int().tolist(), float(low), float(high)


def alone(record):
    """{tag: value} and histograms of a record of one run, layer by layer."""
    scalars, spread = {}, {}
    for layer in record.layers:
        for kind, value in zip(("mean", "std", "unit_std"), moments_alone(layer.out), strict=True):
            scalars[f"activation_{kind}/{layer.name}"] = float(value)
        spread[f"activation/{layer.name}"] = histogram_alone(layer.out)
        if layer.elementwise:
            ((_, flat),) = saturated([layer])
            scalars[f"activation_saturated/{layer.name}"] = float(flat.double().mean())
            zero = 1 - float(layer.out.count_nonzero()) / layer.out.numel()
            scalars[f"activation_zero/{layer.name}"] = zero
            if record.at == 0:
                slope = slope_of(layer)
                for fact in ("sides", "usual", "wide"):
                    scalars[f"activation_flat_{fact}/{layer.name}"] = float(getattr(slope, fact))
        if layer.grad is not None:
            scalars[f"gradient_norm/{layer.name}"] = float(layer.grad.norm())
    for name, before in record.params.items():
        scalars[f"weight_norm/{name}"] = float(before.norm())
        if name in record.grads:
            scalars[f"weight_gradient_norm/{name}"] = float(record.grads[name].norm())
        if before.dim() > 1:
            change = record.updates[name]
            scalars[f"update_ratio/{name}"] = float(change.norm() / before.norm())
            spread[f"weight/{name}"] = histogram_alone(before)
            if name in record.grads:
                spread[f"weight_gradient/{name}"] = histogram_alone(record.grads[name])
    return scalars, spread


def same(found, expected, near=2e-6):
    (scalars, spread), (known, counts) = found, expected
    assert scalars.keys() == known.keys() and spread.keys() == counts.keys()
    for tag, value in known.items():
        assert scalars[tag] == pytest.approx(value, rel=near, abs=near, nan_ok=True), tag
    for tag, (bins, low, high) in counts.items():
        assert spread[tag][1:] == pytest.approx((low, high), nan_ok=True), tag
        assert not math.isfinite(high - low) or list(spread[tag][0]) == bins, tag


class Mixed(nn.Module):
    """Layers of one shape and of several, two functions, one with a weight, one without a name;
    a map that is wide; a weight of no dimensions, one frozen and one unused."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 5, 3, padding=1)
        self.first = nn.Linear(320, 24)
        self.rest = nn.ModuleList(nn.Linear(24, 24) for _ in range(4))
        self.slope, self.last = nn.PReLU(24), nn.Linear(24, 3)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.rest[1].weight.requires_grad = False
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        x = F.relu(self.conv(x)).flatten(1)
        x = torch.tanh(self.first(x)) * self.scale
        for layer, function in zip(self.rest, (F.elu, F.elu, torch.tanh, F.relu), strict=True):
            x = function(layer(x))
        return self.last(self.slope(x))


def seen_of(net, batch=230):  # relu's map has 73,600 elements, which are not laid together
    torch.manual_seed(3)
    x, y = torch.randn(batch, 1, 8, 8), torch.randint(0, 3, (batch,))
    with capture_around(net, F.cross_entropy, x, y) as record, torch.no_grad():
        for p in net.parameters():
            p.mul_(0.99)
    return record


@pytest.mark.parametrize("spoilt", [None, math.nan, math.inf, -math.inf])
def test_figures_equal_those_of_each_layer_alone(spoilt):
    torch.manual_seed(0)
    net = Mixed()
    if spoilt is not None:
        with torch.no_grad():
            net.rest[2].bias[0] = spoilt
    record = seen_of(net)
    assert len(alike({layer.name: layer.out for layer in record.layers}, None)) < len(record.layers)
    same(measure(record, PROBES), alone(record))


def test_figures_of_half_precision_and_of_nothing():
    record = seen_of(Mixed())
    for layer in record.layers:
        if layer.name.endswith("tanh"):
            layer.out = layer.out.half()
    same(measure(record, PROBES), alone(record))
    assert measure(StepRecord([], {}, {}, {}), PROBES) == ({}, {})
    assert measured(StepRecord([], {}, {}, {}, runs=2), PROBES) == [({}, {})] * 2


def test_tags_are_in_the_order_of_the_layers():
    scalars, spread = measure(seen_of(Mixed()), PROBES)
    for found in scalars, spread:
        for quantity in {tag.partition("/")[0] for tag in found}:
            own = [tag for tag in found if tag.startswith(f"{quantity}/")]
            assert own == sorted(own)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_counts_are_those_of_histc(dtype):
    torch.manual_seed(1)
    scale = 10.0 ** torch.randint(-8, 8, (40, 3, 1)).to(dtype)
    values = torch.randn(40, 3, 777, dtype=dtype) * scale + 5 * scale.flip(0)
    values[0], values[1, 0, :400], values[2] = 0.25, 0.0, torch.linspace(0, 1, 777, dtype=dtype)
    counts, low, high = counted(values)
    for own, bins, a, b in zip(
        *(t.flatten(0, 1) for t in (values, counts, low, high)), strict=True
    ):
        assert (bins.int().tolist(), float(a), float(b)) == histogram_alone(own)


def stacked(runs):
    words = "model.widths=[12,12,12]", "batch_size=16", "norm=batch", "optim=adam"
    bench = bench_of(*words)
    return Stack([bench.fresh() for _ in range(runs)], list(range(runs))).trainer


class Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(function.name())
        return function(*args, **(kwargs or {}))


def calls_of(runs):
    """How many operations a look adds to a step, and its figures take."""
    trainer = stacked(runs)
    x, y = trainer.batches(0)
    measured(seen_step(trainer, x, y), PROBES)  # the limits of relu are remembered from here on
    with Calls() as plain:
        trainer.step(x, y)
    with Calls() as looked:
        record = seen_step(trainer, x, y)
    with Calls() as figures:
        rows = measured(record, PROBES)
    assert len(rows) == runs
    return len(looked.seen) - len(plain.seen), len(figures.seen)


def seen_step(trainer, x, y):
    with capture_step(trainer, x, y, runs=len(x)) as record:
        trainer.step(x, y)
    return record


def test_a_stack_is_measured_by_as_many_operations_as_one_run():
    assert calls_of(1) == calls_of(16)


def test_all_runs_reach_the_host_in_one_transfer(monkeypatch):
    copies, trainer = [], stacked(16)
    record = seen_step(trainer, *trainer.batches(0))
    for name in ("cpu", "tolist", "item", "__float__", "__bool__"):
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda t, real=real: copies.append(t) or real(t))
    measured(record, PROBES)
    assert len(copies) == 1


def test_each_run_of_a_stack_has_the_figures_it_has_alone():
    trainer = stacked(5)
    with torch.no_grad():
        for p in trainer.params:
            p.mul_(torch.linspace(0.5, 2, 5).view(-1, *[1] * (p.dim() - 1)))
        trainer.params[0][3] = math.nan
    x, y = trainer.batches(0)
    record = seen_step(trainer, x, y)
    rows = measured(record, PROBES)
    for run in range(5):
        same(rows[run], alone(of_run(record, run)))
        same(measure(of_run(record, run), PROBES), alone(of_run(record, run)))


def test_a_probe_that_knows_of_no_runs_is_shown_each_alone():
    record = StepRecord([], {"01.w": torch.arange(12.0).view(3, 2, 2)}, {}, {}, runs=3)

    def largest(record):
        (w,) = record.params.values()
        bins = Histogram(w.flatten(), w.min(), w.max())
        return {"largest": w.max(), "spread": bins, ("a", "b"): w[0]}

    rows = measured(record, {"largest": largest})
    assert [row["largest"] for row, _ in rows] == [3.0, 7.0, 11.0]
    assert [(row["a"], row["b"]) for row, _ in rows] == [(0, 1), (4, 5), (8, 9)]
    assert rows[1][1] == {"spread": ([4, 5, 6, 7], 4.0, 7.0)}


def test_what_changes_slowly_is_a_function_of_the_step_for_every_cadence():
    assert [step for step in (0, 1, 3, 7, 15, 31, 63) if rarely(step)] == [0, 7, 63]
    for every in (10, 50, 70, 100, 200, 300):
        share = sum(rarely(step) for step in range(0, 100_000, every)) / (100_000 / every)
        assert share == pytest.approx(0.2, abs=0.02), every
    assert all(rarely(step) for step in range(0, 10_000, 1000))
    plain = {"01.w": torch.ones(2, 2)}
    for at, some in ((0, True), (100, False), (500, True)):
        record = StepRecord([], plain, plain, plain, at=at, weights=frozenset(plain))
        _, spread = measure(record, PROBES)
        assert bool(spread) == some
