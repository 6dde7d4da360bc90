"""Probes against references in float64 and closed forms."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trainlab.observe.capture import StepRecord, capture, capture_around, recorded_layers
from trainlab.observe.saturation import saturated
from trainlab.observe.statistics import Histogram, at_least_float32, counted, measure, strided
from trainlab.probes.activation import activation, dead, moments
from trainlab.probes.gradient import gradient
from trainlab.probes.update import update
from trainlab.probes.weight import weight


def call(function, x, *args, **kwargs):
    """The one layer that a call becomes."""
    with recorded_layers(nn.Identity()) as layers:
        function(x, *args, **kwargs)
    assert len(layers) == 1
    return layers[0]


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e3, -1e5])
@pytest.mark.parametrize("shape", [(32, 20), (8, 6, 5, 5), (32,), (1, 4)])
def test_moments_equal_float64_however_large_the_mean(shape, offset):
    torch.manual_seed(0)
    x = (torch.randn(shape) + offset) * torch.linspace(
        0.5, 2, shape[1] if len(shape) > 1 else 1
    ).view(-1, *[1] * (len(shape) - 2))
    reference = x.double()
    units = reference.transpose(0, 1).flatten(1) if len(shape) > 1 else reference[None]
    mean, std, unit_std = (figure[0, 0] for figure in moments(x[None, None]))
    near = {"rtol": 2e-4, "atol": 1e-6, "check_dtype": False}
    torch.testing.assert_close(mean, reference.mean(), **near)
    torch.testing.assert_close(std, reference.std(correction=0), **near)
    torch.testing.assert_close(unit_std, units.std(1, correction=0).mean(), **near)


def test_pooled_and_unit_std_differ_where_the_units_do():
    x = torch.tensor([[0.0, 10.0], [0.0, 10.0]])
    mean, std, unit_std = moments(x[None, None])
    assert (float(mean), float(std), float(unit_std)) == (5, 5, 0)


def flat_of(*calls):
    """Where each call is saturated, in its own shape."""
    together = {}
    for number, layer in enumerate(calls):
        layer.name = f"{number}"
    for group, flat in saturated(list(calls)):
        together |= {layer.name: f[0] for layer, f in zip(group, flat, strict=True)}
    return [together[layer.name] for layer in calls]


def histogram(values):
    """Of one tensor: counts (64,), limits ()."""
    found = counted(strided(at_least_float32(values)[None, None]))
    return Histogram(*(part[0, 0] for part in found))


GRID = torch.linspace(-12, 12, 24001)
CLOSED = {  # diagnosis: |f'| < 5 % of its maximum
    "sigmoid": (torch.sigmoid, (), GRID.abs() > 4.3567),
    "tanh": (torch.tanh, (), GRID.abs() > math.atanh(math.sqrt(0.95))),
    "elu": (F.elu, (), math.log(0.05) > GRID),
    "elu in place": (F.elu, (1.0, True), math.log(0.05) > GRID),
    "selu": (F.selu, (), math.log(0.05) > GRID),
    "softplus": (F.softplus, (), math.log(0.05 / 0.95) > GRID),
    "softsign": (F.softsign, (), GRID.abs() > 1 / math.sqrt(0.05) - 1),
    "relu": (torch.relu, (), GRID <= 0),
    "relu in place": (torch.relu_, (), GRID <= 0),
    "hardtanh": (F.hardtanh, (), GRID.abs() >= 1),
    "leaky_relu": (F.leaky_relu, (), GRID <= 0),  # slope 0.01
    "leaky_relu 0.1": (F.leaky_relu, (0.1,), torch.zeros_like(GRID, dtype=torch.bool)),
    "threshold 20": (F.threshold, (5.0, 0.0), GRID <= 5),
}


@pytest.mark.parametrize("name", CLOSED)
def test_saturation_equals_the_closed_form(name):
    function, args, expected = CLOSED[name]
    flat = flat_of(call(function, GRID.clone(), *args))[0]
    wrong = flat != expected
    assert wrong.sum() <= 4, GRID[wrong]  # the grid is 0.001 fine, the maximum good to 1e-5


def test_the_steepest_slope_belongs_to_the_arguments():
    steep = call(F.elu, torch.full((4, 2), -3.5), 30.0)  # slope 30 exp(x): at most 30
    flat = call(F.elu, torch.full((4, 2), -3.5), 1.0)
    assert [bool(s.all()) for s in flat_of(steep, flat)] == [True, True]
    fine = call(F.elu, torch.full((4, 2), -2.9), 30.0)
    assert not flat_of(fine)[0].any()


def test_learned_slopes_are_taken_as_they_are():
    prelu = nn.PReLU(3)
    x = torch.randn(50, 3, 4, 4)
    for slope in (0.25, 30.0, 0.01):  # one module, three weights: nothing is remembered
        prelu.weight.data[:] = torch.tensor([slope, 1.0, 1.0])
        flat = flat_of(call(F.prelu, x, prelu.weight))[0]
        steep = torch.where(x < 0, prelu.weight.detach().view(3, 1, 1), 1.0)
        assert torch.equal(flat, steep < 0.05 * max(1.0, slope)), slope


def test_a_random_activation_is_judged_in_its_evaluation_form_and_draws_nothing():
    torch.manual_seed(4)
    net = nn.Sequential(nn.RReLU(0.001, 0.109))  # trains with slopes around 0.055
    x = torch.randn(50, 4, requires_grad=True)
    record = capture(net, lambda out, y: out.sum(), x, x)
    with recorded_layers(net) as layers:  # positional: cannot be told to evaluate
        torch.rrelu(x, 0.1, 0.3, True)
    state = torch.get_rng_state()
    scalars, _ = measure(record, {"activation": activation})
    measure(StepRecord(layers, {}, {}, {}), {"activation": activation})
    assert torch.equal(torch.get_rng_state(), state)
    assert scalars["activation_saturated/01.rrelu"] == 0
    x = torch.full((4, 2), 0.5)  # slope 1, where the steepest is 30 or 1
    calls = [call(torch.rrelu, x, 20.0, 40.0), call(torch.rrelu, x, 0.1, 0.3)]
    assert [bool(flat.all()) for flat in flat_of(*calls)] == [True, False]


def test_activation_figures_of_a_relu_layer():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 3))
    x, y = torch.randn(40, 5), torch.randint(0, 3, (40,))
    scalars, histograms = measure(capture(net, F.cross_entropy, x, y), {"activation": activation})
    out = net[1](net[0](x)).detach().double()
    assert scalars["activation_mean/01.relu"] == pytest.approx(float(out.mean()), rel=1e-6)
    assert scalars["activation_zero/01.relu"] == pytest.approx(float((out == 0).double().mean()))
    assert scalars["activation_saturated/01.relu"] == scalars["activation_zero/01.relu"]
    assert "activation_zero/02.logits" not in scalars and "activation_std/02.logits" in scalars
    counts, low, high = histograms["activation/01.relu"]
    assert counts == torch.histc(out.float(), 64).int().tolist()
    assert (low, high) == (float(out.min()), float(out.max()))


def test_histograms_count_what_is_there():
    x = torch.randn(300, 128)
    counts, low, high = histogram(x)
    assert 2048 < counts.sum() <= 4096 and low >= x.min() and high <= x.max()
    columns = torch.arange(128.0).expand(1024, 128)  # a stride that divides 128 misses columns
    assert int((histogram(columns).counts > 0).sum()) == 64
    constant = histogram(torch.full((10, 3), 0.7))
    assert constant.counts.sum() == 30 and constant.low == constant.high
    assert histogram(torch.randn(4, 4, dtype=torch.float64)).counts.sum() == 16
    assert histogram(torch.randn(4, 4, dtype=torch.bfloat16)).counts.sum() == 16
    assert not math.isfinite(histogram(torch.tensor([1.0, math.nan])).low)


def stepped(optimizer, **settings):
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 3)).double()
    x, y = torch.randn(20, 5).double(), torch.randint(0, 3, (20,))
    make = optimizer(net.parameters(), **settings)
    for _ in range(3):
        before = [p.detach().clone() for p in net.parameters()]
        with capture_around(net, F.cross_entropy, x, y) as record:
            make.zero_grad()
            F.cross_entropy(net(x), y).backward()
            make.step()
    return net, record, before


@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
        (torch.optim.Adam, {"lr": 0.01}),
        (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.5}),
    ],
)
def test_norms_and_update_ratios_for_any_optimizer(optimizer, settings):
    net, record, before = stepped(optimizer, **settings)
    probes = {"gradient": gradient, "update": update, "weight": weight}
    scalars, histograms = measure(record, probes)
    names = [f"{i:02}.{name}" for i, (name, _) in enumerate(net.named_parameters(), 1)]
    for name, p, old in zip(names, net.parameters(), before, strict=True):
        exact = pytest.approx
        assert scalars[f"weight_gradient_norm/{name}"] == exact(float(p.grad.norm()), rel=1e-9)
        assert scalars[f"weight_norm/{name}"] == exact(float(old.norm()), rel=1e-9)
        matrix = p.dim() > 1
        assert (f"update_ratio/{name}" in scalars) == matrix
        if matrix:
            ratio = float((p.detach() - old).norm() / old.norm())
            assert scalars[f"update_ratio/{name}"] == exact(ratio, rel=1e-9)
            assert sum(histograms[f"weight/{name}"][0]) == p.numel()
            assert sum(histograms[f"weight_gradient/{name}"][0]) == p.numel()
    logits = record.layers[-1]
    assert logits.name == "02.logits"
    assert scalars["gradient_norm/02.logits"] == pytest.approx(float(logits.grad.norm()), rel=1e-9)


def test_a_probe_of_ones_own_is_measured():
    record = StepRecord([], {"01.w": torch.arange(4.0)}, {}, {})

    def largest(record):
        return {f"weight_largest/{name}": w.abs().max() for name, w in record.params.items()} | {
            "spread": Histogram(torch.tensor([1.0, 2.0]), torch.tensor(0.0), torch.tensor(3.0))
        }

    assert measure(record, {"largest": largest}) == (
        {"weight_largest/01.w": 3.0},
        {"spread": ([1, 2], 0.0, 3.0)},
    )
    assert measure(record, {}) == ({}, {})


class Batches(list):
    per_epoch = property(len)

    def __call__(self, step):
        return self[step], None


def test_a_unit_is_dead_when_it_is_flat_on_every_sample_of_the_pass():
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2), nn.Sigmoid())
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0], [-1, 0], [0, 0], [0, 0]]))
        net[0].bias.copy_(torch.tensor([0.0, 0, -1, 1]))
        net[3].weight.zero_()
        net[3].bias.copy_(torch.tensor([9.0, 0]))
    first, second = torch.tensor([[1.0, 0]]), torch.tensor([[-1.0, 0]])
    assert dead(net, Batches([first, second])) == {"01.relu": 0.25, "02.sigmoid": 0.5}
    assert dead(net, Batches([first])) == {"01.relu": 0.5, "02.sigmoid": 0.5}
    assert net.training
    assert dead(nn.Linear(2, 3), Batches([first])) == {}
    dropped = nn.Sequential(nn.Dropout(0.9), nn.ReLU())  # evaluation mode: nothing is dropped
    assert dead(dropped, Batches([torch.ones(1, 50)])) == {"01.relu": 0}


def test_the_pass_ends_where_every_unit_was_seen_alive(monkeypatch):
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU())
    nn.init.eye_(net[0].weight)
    asked = []

    class Counted(Batches):
        def __call__(self, step):
            asked.append(step)
            return super().__call__(step)

    left, right = torch.tensor([[1.0, -1.0]]), torch.tensor([[-1.0, 1.0]])
    assert dead(net, Counted([left, left, right, left])) == {"01.relu": 0}
    assert asked == [0, 1, 2]
    whole = dead(net, Batches([torch.cat([left] * 9)]))
    monkeypatch.setattr("trainlab.probes.activation.BLOCK", 4)  # two samples at a time
    assert dead(net, Batches([torch.cat([left] * 9)])) == whole == {"01.relu": 0.5}
    assert dead(net, Batches([torch.cat([left] * 8 + [right])])) == {"01.relu": 0}


def test_a_channel_is_a_unit_of_a_convolution():
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU())
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, 0, -1]).view(3, 1, 1, 1))
        net[0].bias.copy_(torch.tensor([0.0, -1, 0]))
    x = torch.zeros(2, 1, 4, 4)
    x[1, 0, 3, 3] = 1  # one pixel keeps the first channel alive, the last never is
    assert dead(net, Batches([x])) == {"01.relu": pytest.approx(2 / 3)}


def test_what_is_not_finite_is_said_so():
    net = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 2), nn.ReLU())
    with torch.no_grad():
        net[2].bias[0] = math.nan
    x, y = torch.randn(5, 2), torch.zeros(5, dtype=torch.int64)
    shares = dead(net, Batches([x]))
    assert shares["01.sigmoid"] == 0 and math.isnan(shares["02.relu"])
    scalars, histograms = measure(capture(net, F.cross_entropy, x, y), {"activation": activation})
    assert math.isnan(scalars["activation_mean/02.relu"])
    assert math.isnan(histograms["activation/02.relu"][1])
    assert math.isfinite(scalars["activation_mean/01.sigmoid"])
