"""Saturation of every word and of what nobody knows, against closed forms and float64."""

import math
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from trainlab.config.build import Door
from trainlab.observe.capture import capture, recorded_layers
from trainlab.observe.saturation import saturated, slope_of
from trainlab.stack.layers import stack

CONF = Path(__file__).resolve().parents[2] / "conf" / "activation"
INF = math.inf


class Slot(nn.Module):
    """A module in the activation's place."""

    def __init__(self, function):
        super().__init__()
        self.activation = function

    def forward(self, x):
        return self.activation(x)


class Wave(nn.Module):
    """sin(frequency x)."""

    def __init__(self, frequency=1.0):
        super().__init__()
        self.frequency = frequency

    def forward(self, x):
        return torch.sin(self.frequency * x)


class Swish(nn.Module):
    """x sigmoid(beta x), beta learned, one a channel."""

    def __init__(self, width=4):
        super().__init__()
        self.beta = nn.Parameter(torch.ones(width))

    def forward(self, x):
        beta = self.beta.view(-1, *[1] * (x.dim() - 2))
        return x * torch.sigmoid(beta * x)


class Overflows(nn.Module):
    """tanh, nan above 355."""

    def forward(self, x):
        return (x.exp() - (-x).exp()) / (x.exp() + (-x).exp())


class Squeezes(nn.Module):
    """Softmax over the units, written by hand: mixes elements."""

    def forward(self, x):
        return x.exp() / x.exp().sum(1, keepdim=True)


class Placed(nn.Module):
    """Its slope is of each place of the image."""

    def __init__(self):
        super().__init__()
        self.slopes = nn.Parameter(torch.linspace(0.01, 1, 8).view(2, 2, 2))

    def forward(self, x):
        return torch.where(x > 0, x, self.slopes * x)


def word(name):
    return Door()(yaml.safe_load((CONF / f"{name}.yaml").read_text()))


def seen(function, x):
    """The one layer that a module becomes in its place."""
    net = Slot(function)
    with recorded_layers(net) as layers:
        net(x)
    assert len(layers) == 2
    return layers[0]


def flat_of(layer, runs=None):
    ((_, flat),) = saturated([layer], runs)
    return flat[0, 0] if runs is None else flat[0]


ROOT = math.sqrt(20)
RANGES = {  # flat below and above
    "relu": (0, INF),
    "relu6": (0, 6),
    "leaky_relu": (0, INF),  # 0.01 is below 5 %
    "prelu": (-INF, INF),
    "rrelu": (-INF, INF),
    "tanh": (-math.acosh(ROOT), math.acosh(ROOT)),
    "sigmoid": (-2 * math.acosh(ROOT), 2 * math.acosh(ROOT)),
    "softsign": (1 - ROOT, ROOT - 1),
    "softplus": (-math.log(19), INF),
    "elu": (-math.log(20), INF),
    "celu": (-math.log(20), INF),
    "selu": (-math.log(20), INF),
    "hardtanh": (-1, 1),
    "hardsigmoid": (-3, 3),
    "relu_squared": (0.2, INF),  # 5 % of the slope at 4
}
GRID = torch.linspace(-12, 12, 24001)


@pytest.mark.parametrize("name", RANGES)
def test_saturation_of_a_word_equals_the_closed_form(name):
    low, high = RANGES[name]
    layer = seen(word(name)(), GRID[:, None])
    assert layer.name == f"01.{name}"
    expected = (low > GRID) | (high < GRID)
    near = ((GRID - low).abs() < 2e-3) | ((GRID - high).abs() < 2e-3)
    assert torch.equal(flat_of(layer).flatten()[~near], expected[~near])


@pytest.mark.parametrize("name", ["gelu", "silu", "mish", "hardswish"])
def test_saturation_of_the_others_is_where_the_slope_is_small_in_float64(name):
    x = GRID.double().requires_grad_()
    slope = torch.autograd.grad(word(name)()(x).sum(), x)[0].abs()
    share = slope / slope.max()
    near = (share - 0.05).abs() < 1e-3
    flat = flat_of(seen(word(name)(), GRID[:, None])).flatten()
    assert torch.equal(flat[~near], (share < 0.05)[~near])


FACTS = {  # sides, share of N(0, 1) and of N(0, 3.2^2): from the distribution function of N(0, 1)
    "relu": (1, 0.5, 0.5),
    "relu6": (2, 0.5, 0.5304),
    "tanh": (2, 0.0292, 0.4956),
    "hardtanh": (2, 0.3173, 0.7547),
    "sigmoid": (2, 0.0000, 0.1733),
    "elu": (1, 0.0014, 0.1746),
    "leaky_relu": (1, 0.5, 0.5),
    "prelu": (0, 0, 0),
}


@pytest.mark.parametrize("name", FACTS)
def test_what_the_rules_are_told_of_a_slope(name):
    slope = slope_of(seen(word(name)(), torch.randn(8, 4)))
    told = [float(slope.sides), float(slope.usual), float(slope.wide)]
    assert told == pytest.approx(FACTS[name], abs=2e-3)


@pytest.mark.parametrize(
    ("function", "name", "sides"),
    [
        (Wave(), "wave", 0),
        (Wave(3.0), "wave", 0),
        (Swish(), "swish", 1),
        (Overflows(), "overflows", 2),
    ],
)
@pytest.mark.parametrize("shape", [(64, 4), (64, 4, 3, 3)])
def test_of_what_no_table_knows_the_slope_is_measured(function, name, sides, shape):
    torch.manual_seed(0)
    x = 3 * torch.randn(shape)
    layer = seen(function, x)
    assert layer.name == f"01.{name}" and layer.elementwise
    double = x.double().requires_grad_()
    slope = torch.autograd.grad(function(double).sum(), double)[0].abs()
    share = slope / {"wave": getattr(function, "frequency", 0), "swish": 1.0998}.get(name, 1)
    near = (share - 0.05).abs() < 1e-3
    assert torch.equal(flat_of(layer)[~near], (share < 0.05)[~near])
    assert float(slope_of(layer).sides) == sides


def test_settings_and_parameters_that_change_are_not_mixed_up():
    x = torch.full((4, 2), 0.5)
    flat = [bool(flat_of(seen(Wave(f), x)).all()) for f in (1.0, math.pi, 1.0)]
    assert flat == [False, True, False]  # cos(pi / 2) = 0
    swish, x = Swish(2), torch.full((4, 2), -3.0)
    assert not flat_of(seen(swish, x)).any()  # slope -0.088 of 1.1
    with torch.no_grad():
        swish.beta.fill_(4.0)
    assert flat_of(seen(swish, x)).all()


def test_what_mixes_elements_has_no_slope():
    for function in (Squeezes(), nn.Softmax(1)):
        assert not seen(function, torch.randn(6, 4)).elementwise
    assert not seen(Squeezes(), torch.randn(6, 4, 2, 2)).elementwise


def test_a_slope_of_each_place_of_an_image():
    function = Placed()
    x = torch.randn(50, 2, 2, 2)
    expected = (x < 0) & (function.slopes < 0.05)
    assert torch.equal(flat_of(seen(function, x)), expected)


@pytest.mark.parametrize("name", ["wave", "swish", "prelu", "relu_squared", "rrelu", "composed"])
def test_each_run_of_a_stack_has_the_saturation_it_has_alone(name):
    class Composed(nn.Module):
        """x sigmoid(x), by a module of torch's inside."""

        def __init__(self):
            super().__init__()
            self.gate = nn.Sigmoid()

        def forward(self, x):
            return x * self.gate(x)

    makes = {"wave": Wave, "swish": Swish, "composed": Composed}
    makes |= {n: word(n) for n in ("prelu", "relu_squared", "rrelu") if n == name}
    nets = [nn.Sequential(nn.Linear(5, 4), Slot(makes[name]())) for _ in range(3)]
    with torch.no_grad():
        for run, net in enumerate(nets):
            for p in net[1].parameters():
                p.fill_(0.02 + 2 * run)
    together, x = stack(nets, [0, 1, 2]), 3 * torch.randn(3, 40, 5)
    record = capture(together, lambda z, y: z.square().sum((1, 2)), x, None, runs=3)
    layer = record.layers[0]
    assert [each.name for each in record.layers] == [f"01.{name}", "02.logits"]
    assert layer.elementwise and layer.grad.shape == layer.x.shape == (3, 40, 4)
    whole, slope = flat_of(layer, 3), slope_of(layer, 3)
    for run, net in enumerate(nets):
        with recorded_layers(net.eval()) as layers:
            net(x[run])
        own, alone = slope_of(layers[0]), flat_of(layers[0])
        assert alone.float().mean() == pytest.approx(float(whole[run].float().mean()), abs=0.02)
        for fact in ("sides", "usual", "wide"):
            told = getattr(slope, fact).expand(3)[run]
            assert float(told) == pytest.approx(float(getattr(own, fact)), abs=1e-3)
