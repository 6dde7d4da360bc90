"""Activations against torch and closed forms; gains and saturation against SciPy."""

import math

import pytest
import torch
from scipy import integrate, stats
from torch import nn
from torch.nn import functional as F

from trainlab.errors import ConfigError
from trainlab.nn import norm
from trainlab.nn.activation import Maxout, PReLU, ReLUSquared, gain, sized
from trainlab.nn.cnn import cnn
from trainlab.nn.mlp import mlp
from trainlab.observe.capture import capture, recorded_layers
from trainlab.observe.statistics import measure
from trainlab.probes.activation import activation as probe
from trainlab.probes.activation import dead


@pytest.mark.parametrize("shape", [(5, 12), (5, 12, 4, 3)])
def test_every_word_keeps_the_width_it_was_asked_for(activation_word, word, shape):
    factory = word("activation", activation_word)
    outputs, module = sized(factory, shape[1])
    x = torch.randn(shape[0], outputs, *shape[2:], requires_grad=True)
    out = module(x)
    assert out.shape == shape
    out.square().mean().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in module.parameters())
    assert sized(factory, shape[1])[1] is not module  # every layer has its own


def test_every_word_without_a_width_is_a_module(activation_word, word):
    assert isinstance(word("activation", activation_word)(), nn.Module)


@pytest.mark.parametrize("build, shape", [(mlp, (7,)), (cnn, (2, 8, 8))])
def test_every_word_makes_the_models_and_is_seen_once_a_layer(activation_word, word, build, shape):
    model = build(shape, 3, word("activation", activation_word), norm.none)
    with recorded_layers(model) as layers:
        assert model(torch.randn(4, *shape)).shape == (4, 3)
    seen = [layer for layer in layers if layer.function]
    assert len(seen) == (0 if activation_word == "identity" else 2)


def test_maxout_is_the_largest_of_its_pieces():
    x = torch.randn(4, 6, 2, 2)
    out = Maxout(3)(x)
    for unit in range(2):
        assert torch.equal(out[:, unit], x[:, 3 * unit : 3 * unit + 3].max(1).values)
    model = mlp((5,), 2, lambda: Maxout(3), norm.none, widths=[4])
    assert model.hidden1.layer.weight.shape == (12, 5) and model.head.weight.shape == (2, 4)


def test_relu_squared_is_the_square_of_relu():
    x = torch.linspace(-3, 3, 61, dtype=torch.float64, requires_grad=True)
    assert torch.equal(ReLUSquared()(x), torch.where(x > 0, x * x, 0))
    assert torch.autograd.gradcheck(ReLUSquared(), (x + 0.01,))


def test_prelu_has_one_slope_a_layer_or_a_channel():
    assert sized(PReLU(), 6)[1].weight.shape == (1,)
    width, module = sized(PReLU("channel", 0.1), 6)
    assert width == 6 and torch.equal(module.weight, torch.full((6,), 0.1))
    with pytest.raises(ConfigError, match="activation.per = channel: .* use per=layer"):
        PReLU("channel")()


def test_the_word_prelu_takes_its_width_from_the_layer(word):
    model = mlp((5,), 2, word("activation", "prelu", per="channel"), norm.none, widths=[6, 4])
    assert [m.weight.numel() for m in model.modules() if isinstance(m, nn.PReLU)] == [6, 4]


@pytest.mark.parametrize("module, name", [(ReLUSquared(), "relu_squared"), (Maxout(2), "maxout")])
def test_our_own_are_one_layer_with_value_and_gradient(module, name):
    net = nn.Sequential(nn.Linear(5, 8), module, nn.LazyLinear(3))
    x, y = torch.randn(6, 5), torch.randint(0, 3, (6,))
    logits = net(x)
    record = capture(net, F.cross_entropy, x, y)
    call, last = record.layers
    assert (call.name, last.name) == (f"01.{name}", "02.logits")
    out = module(net[0](x))
    torch.testing.assert_close(call.out, out, rtol=0, atol=0)
    torch.testing.assert_close(call.again(call.x), out, rtol=0, atol=0)
    grad = torch.autograd.grad(F.cross_entropy(net[2](out), y), out)[0]
    torch.testing.assert_close(call.grad, grad)
    assert torch.equal(last.out, logits)


def test_probes_of_maxout_leave_out_what_it_has_not():
    """It has no slope of its own, so it neither saturates nor dies; relu squared does."""
    net = nn.Sequential(nn.Linear(5, 8), Maxout(2), nn.Linear(4, 8), ReLUSquared())
    with torch.no_grad():
        net[2].bias.copy_(torch.tensor([-99.0, -99.0, 99, 99, 99, 99, 99, 99]))
    x, y = torch.randn(20, 5), torch.randint(0, 8, (20,))
    scalars, _ = measure(capture(net, F.cross_entropy, x, y), {"activation": probe})
    assert "activation_std/01.maxout" in scalars
    assert "activation_saturated/01.maxout" not in scalars
    assert scalars["activation_saturated/02.relu_squared"] == 0.25

    class Batches:
        per_epoch = 1

        def __call__(self, step):
            return x, y

    assert dead(net, Batches()) == {"02.relu_squared": 0.25}


def phi(z):
    return stats.norm.pdf(z)


CLOSED = {
    "relu": math.sqrt(2),
    "identity": 1.0,
    "leaky_relu": math.sqrt(2 / (1 + 0.01**2)),
    "prelu": math.sqrt(2 / (1 + 0.25**2)),
    "relu_squared": 1 / math.sqrt(1.5),  # E z^4 / 2
    "maxout": 1.0,  # the square of the larger of two has mean 1
    "rrelu": math.sqrt(2 / (1 + ((1 / 8 + 1 / 3) / 2) ** 2)),
}


@pytest.mark.parametrize("name", CLOSED)
def test_gain_equals_the_closed_form(name, word):
    assert gain(sized(word("activation", name), 3)[1]) == pytest.approx(CLOSED[name], rel=1e-9)


def test_gain_equals_scipys_integral(activation_word, word):
    if activation_word == "maxout":
        return  # below
    module = word("activation", activation_word)().double().eval()

    def square(z):
        with torch.no_grad():
            return float(module(torch.tensor([[z]], dtype=torch.float64))) ** 2 * phi(z)

    edges = [-12, -3, -1, 0, 1, 3, 6, 12]
    pairs = zip(edges[:-1], edges[1:], strict=True)
    moment = sum(integrate.quad(square, low, high, epsabs=1e-11)[0] for low, high in pairs)
    assert gain(module) == pytest.approx(1 / math.sqrt(moment), rel=1e-8)


@pytest.mark.parametrize("pieces", [2, 3, 5])
def test_gain_of_maxout_is_that_of_the_largest_of_many_normals(pieces):
    density = lambda z: pieces * phi(z) * stats.norm.cdf(z) ** (pieces - 1)  # noqa: E731
    moment = integrate.quad(lambda z: z * z * density(z), -12, 12, epsabs=1e-12)[0]
    assert gain(Maxout(pieces)) == pytest.approx(1 / math.sqrt(moment), rel=1e-8)


def test_gain_of_selu_is_about_one_and_nothing_is_drawn_or_changed():
    module, state = nn.RReLU(), torch.get_rng_state()
    assert gain(nn.SELU()) == pytest.approx(1.0, abs=1e-6)  # Klambauer et al.: the fixed point
    assert gain(module) == gain(module)
    assert torch.equal(torch.get_rng_state(), state) and module.training
    per_channel = nn.PReLU(2)
    with torch.no_grad():
        per_channel.weight.copy_(torch.tensor([0.0, 1.0]))
    assert gain(per_channel) == pytest.approx(math.sqrt(1 / 0.75), rel=1e-9)  # mean of 1/2 and 1
