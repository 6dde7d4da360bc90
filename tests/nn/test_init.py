"""Initialisers: measured variance against the formula, on dense and convolutional layers."""

import math

import pytest
import torch
from torch import nn

from trainlab.errors import ConfigError
from trainlab.nn import norm
from trainlab.nn.activation import gain
from trainlab.nn.cnn import cnn
from trainlab.nn.init import TRUNCATED, identity, initialise, keep, truncated, weighted
from trainlab.nn.mlp import mlp
from trainlab.observe.capture import outputs
from trainlab.training.modules import BATCH_NORMS

PRIOR = torch.tensor([0.5, 0.3, 0.2])
X = {"mlp": (6,), "cnn": (2, 8, 8)}


def model_of(kind="mlp", activation=nn.ReLU, make=norm.none, **kwargs):
    build = mlp if kind == "mlp" else cnn
    return build(X[kind], 3, activation, make, **kwargs)


def batch_of(kind="mlp", count=64):
    return torch.randn(count, *X[kind])


def weights(model):
    return [layer.weight.detach() for layer, _ in weighted(model)]


@pytest.mark.parametrize("kind", X)
def test_every_word_draws_every_weight_and_only_those(init_word, word, kind):
    model = model_of(kind, make=norm.batch)
    for p in model.parameters():
        p.data.fill_(7.0)
    word("init", init_word)(model, batch_of(kind), prior=PRIOR)
    kept = init_word == "torch_default"
    for layer, _ in weighted(model):
        if init_word != "constant":
            assert bool((layer.weight == 7).all()) == kept
        assert layer.bias is None or bool((layer.bias == (7 if kept else 0)).all())
    norms = [m for m in model.modules() if isinstance(m, BATCH_NORMS)]
    assert len(norms) == 2 and all((m.weight == 7).all() for m in norms)


@pytest.mark.parametrize("make", [norm.none, norm.batch, norm.weight])
@pytest.mark.parametrize("kind", X)
def test_every_word_gives_finite_outputs_with_every_norm(init_word, word, kind, make):
    model = model_of(kind, make=make)
    word("init", init_word)(model, batch_of(kind), prior=PRIOR)
    model(batch_of(kind)).square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


LAYERS = {"dense": nn.Linear(400, 300), "conv": nn.Conv2d(40, 60, 3)}
FANS = {"dense": (400, 300), "conv": (40 * 9, 60 * 9)}
VARIANCE = {
    "constant": lambda i, o: 0.05**2,
    "uniform": lambda i, o: 0.1**2 / 12,
    "small_gaussian": lambda i, o: 0.01**2,
    "unit_gaussian": lambda i, o: 1.0,
    "xavier_normal": lambda i, o: 2 / (i + o),
    "xavier_uniform": lambda i, o: 2 / (i + o),
    "he_normal": lambda i, o: 2 / i,
    "he_uniform": lambda i, o: 2 / i,
    "lecun_normal": lambda i, o: 1 / i,
    "variance_scaling": lambda i, o: 1 / i,
    "torch_default": lambda i, o: 1 / (3 * i),
    "zeros": lambda i, o: 0.0,
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", VARIANCE)
def test_the_second_moment_is_that_of_the_formula(name, kind, word):
    layer = LAYERS[kind]
    layer.reset_parameters()
    word("init", name)(nn.Sequential(layer, nn.ReLU()), torch.zeros(1), prior=None)
    expected, weight = VARIANCE[name](*FANS[kind]), layer.weight.detach()
    assert float(weight.double().square().mean()) == pytest.approx(expected, rel=0.02)
    if name not in ("constant", "zeros"):
        assert abs(float(weight.mean())) < 0.02 * math.sqrt(expected)
    uniform = weight.abs().max() <= 1.001 * math.sqrt(3 * expected)
    assert bool(uniform) == (name in ("uniform", "xavier_uniform", "he_uniform", "torch_default",
                                      "constant", "zeros"))  # fmt: skip


@pytest.mark.parametrize("name", ["he_normal", "he_uniform"])
def test_fan_out_counts_the_outputs(name, word):
    layer = LAYERS["conv"]
    node = {"_target_": f"torch.nn.init.kaiming_{name[3:]}_", "_partial_": True,
            "mode": "fan_out", "nonlinearity": "linear"}  # fmt: skip
    word("init", name, weight=node)(nn.Sequential(layer, nn.ReLU()), torch.zeros(1))
    assert float(layer.weight.detach().square().mean()) == pytest.approx(2 / 540, rel=0.02)


@pytest.mark.parametrize("fan, count", [("in", 360), ("out", 540), ("mean", 450)])
def test_truncated_keeps_the_variance_within_two_of_its_deviations(fan, count):
    drawn = truncated(torch.empty(60, 40, 3, 3), scale=3.0, fan=fan)
    assert float(drawn.square().mean()) == pytest.approx(3 / count, rel=0.03)
    edge = 2 * math.sqrt(3 / count) / TRUNCATED
    assert 0.97 * edge < float(drawn.abs().max()) <= edge
    density = math.exp(-2) / math.sqrt(2 * math.pi)  # of N(0, 1) at 2
    inside = math.erf(math.sqrt(2))
    assert pytest.approx(math.sqrt(1 - 4 * density / inside), rel=1e-12) == TRUNCATED


@pytest.mark.parametrize("shape", [(5, 5), (7, 4), (4, 7)])
def test_identity_hands_the_inputs_on(shape):
    outputs_, inputs = shape
    same = min(shape)
    x = torch.randn(3, inputs)
    z = x @ identity(torch.empty(shape)).T
    assert torch.equal(z[:, :same], x[:, :same]) and not z[:, same:].any()
    image = torch.randn(2, inputs, 6, 5)
    z = nn.functional.conv2d(image, identity(torch.empty(*shape, 3, 3)), padding=1)
    assert torch.equal(z[:, :same], image[:, :same]) and not z[:, same:].any()


@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_orthogonal_rows_or_columns_have_the_length_of_the_gain(factor, word):
    model = model_of(widths=[9, 4])
    word("init", "orthogonal", gain=factor)(model, batch_of())
    for w in weights(model):
        small = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
        torch.testing.assert_close(small, factor**2 * torch.eye(len(small)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", X)
@pytest.mark.parametrize("make", [norm.none, norm.batch, norm.weight])
def test_lsuv_gives_every_layer_unit_variance_on_its_batch(kind, make, word):
    model, x = model_of(kind, nn.Tanh, make), batch_of(kind)
    x = 3 * x + 1
    before = {name: b.clone() for name, b in model.named_buffers()}
    word("init", "lsuv")(model, x, prior=None)
    layers = [layer for layer, _ in weighted(model)]
    for out in outputs(model, layers, x).values():
        assert float(out.var()) == pytest.approx(1.0, abs=0.021)
    for w in weights(model):  # still orthogonal, up to the factor
        flat = w.flatten(1)
        small = flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat
        scale = small.diagonal().mean()
        torch.testing.assert_close(small, scale * torch.eye(len(small)), atol=1e-4, rtol=0)
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
    word("init", "lsuv", gain=2.0, head="zero")(model, x)
    *hidden, head = outputs(model, layers, x).values()
    assert all(float(out.std()) == pytest.approx(2.0, rel=0.011) for out in hidden)
    assert not head.any()


# gain

ACTIVATIONS = [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.SELU, nn.PReLU, nn.Identity]


@pytest.mark.parametrize("active", ACTIVATIONS)
def test_gain_auto_is_that_of_the_activation_behind_each_layer(active, word):
    model = model_of(activation=active, widths=[300, 300])
    word("init", "he_normal")(model, batch_of())
    for w in weights(model)[1:2]:
        assert float(w.std()) == pytest.approx(gain(active()) / math.sqrt(300), rel=0.02)
    word("init", "he_normal", gain=3.0)(model, batch_of())
    assert float(weights(model)[1].std()) == pytest.approx(3 / math.sqrt(300), rel=0.02)


def test_the_activation_behind_is_the_next_and_of_the_head_the_last():
    tanh, relu = nn.Tanh(), nn.ReLU()
    first, second, head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
    model = nn.Sequential(nn.Flatten(), first, nn.LayerNorm(4), tanh, second, relu, head)
    assert weighted(model) == [(first, tanh), (second, relu), (head, relu)]
    assert [behind for _, behind in weighted(nn.Sequential(first, nn.Softmax(1)))] == [None]
    block = norm.none(first, nn.Identity())
    assert weighted(block) == [(first, block.activation)]
    odd = nn.Sequential(first, nn.LayerNorm((4, 4)), nn.BatchNorm1d(4))  # a norm is no layer
    assert weighted(odd) == [(first, None)]


def test_a_torchvision_model_with_its_shared_activations(word):
    models = pytest.importorskip("torchvision.models")
    model = models.resnet18(num_classes=3)
    word("init", "he_normal", bias="prior")(model, torch.zeros(1), prior=PRIOR)
    for layer, behind in weighted(model):
        fan_in = layer.weight[0].numel()
        assert isinstance(behind, nn.ReLU)
        std = float(layer.weight.detach().std()) * math.sqrt(fan_in)
        assert std == pytest.approx(math.sqrt(2), rel=0.05)
    torch.testing.assert_close(model.fc.bias, PRIOR.log())


# head, bias, branches


def test_torch_default_keeps_the_draw_bit_for_bit(word):
    model = model_of()
    before = {name: p.clone() for name, p in model.named_parameters()}
    word("init", "torch_default")(model, batch_of(), prior=PRIOR)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert keep(before["head.bias"]) is before["head.bias"]


@pytest.mark.parametrize("make", [norm.none, norm.weight])
def test_head_apart(make, init_word, word):
    std = {}
    for head in ("same", "zero", "gaussian"):
        model = model_of(make=make, widths=[200, 200])
        word("init", init_word, head=head)(model, batch_of(), prior=PRIOR)
        *_, hidden, last = weights(model)
        std[head] = float(last.square().mean().sqrt())
    assert std["zero"] == 0 and std["gaussian"] == pytest.approx(0.01, rel=0.1)
    if init_word not in ("zeros", "small_gaussian"):
        assert std["same"] > 0.02


def test_bias_is_a_number_or_the_log_of_the_class_shares(init_word, word):
    model = model_of()
    word("init", init_word, bias=0.25)(model, batch_of(), prior=PRIOR)
    assert all((layer.bias == 0.25).all() for layer, _ in weighted(model))
    word("init", init_word, bias="prior", head="zero")(model, batch_of(), prior=PRIOR)
    *hidden, head = (layer for layer, _ in weighted(model))
    assert not any(layer.bias.any() for layer in hidden)
    torch.testing.assert_close(model(batch_of()).softmax(1), PRIOR.expand(64, 3))


def test_a_prior_that_cannot_be_used_is_refused(word):
    init = word("init", "he_normal", bias="prior")
    headless = nn.Sequential(nn.Linear(6, 3, bias=False))
    for model, prior in ((model_of(), None), (headless, PRIOR), (model_of(), torch.ones(4) / 4)):
        with pytest.raises(ConfigError, match="init.bias = prior: .* use init.bias=0"):
            init(model, batch_of(), prior=prior)
    init(model_of(), batch_of(), prior=torch.tensor([0.6, 0.4, 0.0]))  # a class without samples


class Residual(nn.Module):
    def __init__(self, make):
        super().__init__()
        first, last = make(nn.Linear(6, 5), nn.ReLU()), make(nn.Linear(5, 6), None)
        self.branch = nn.Sequential(first, last)

    def forward(self, x):
        return x + self.branch(x)


@pytest.mark.parametrize("make", [norm.none, norm.batch, norm.layer, norm.rms, norm.weight])
def test_zero_gamma_makes_a_residual_block_the_identity(make, word):
    model = nn.Sequential(Residual(make), Residual(make))
    x = torch.randn(8, 6)
    word("init", "he_normal")(model, x)
    assert not torch.equal(model(x), x)
    word("init", "he_normal", zero_gamma=True)(model, x)
    torch.testing.assert_close(model(x), x, rtol=0, atol=0)
    model(x).sum().backward()
    grads = [p.grad for p in model[0].branch[1].parameters() if p.grad is not None]
    assert any(g.abs().max() > 0 for g in grads)  # it can leave the identity
    assert all(g.isfinite().all() for g in grads)


def test_zero_gamma_without_residual_blocks_is_refused(word):
    with pytest.raises(ConfigError, match="init.zero_gamma = true: .*zero_gamma=false"):
        word("init", "he_normal", zero_gamma=True)(model_of(), batch_of())


# weight norm


def test_init_acts_on_the_effective_weight(word):
    torch.manual_seed(1)
    plain, normed = model_of(), model_of(make=norm.weight)
    init = word("init", "he_normal")
    for model in (plain, normed):
        torch.manual_seed(2)
        init(model, batch_of())
    for a, b in zip(weights(plain), weights(normed), strict=True):
        torch.testing.assert_close(a, b)


def test_zero_weights_under_weight_norm_keep_a_direction(word):
    model = model_of(make=norm.weight)
    word("init", "zeros")(model, batch_of())
    g, v = model.hidden1.layer.parametrizations.weight.parameters()
    assert not g.any() and (v.norm(dim=1) > 0).all()
    assert not model.hidden1.layer.weight.any()


def test_the_rules_are_for_a_plain_function_of_the_weight(word):
    """A rule of one's own is a function that fills a tensor in place."""
    model = model_of()
    initialise(model, batch_of(), weight=lambda w: w.fill_(2.0), gain=0.5)
    assert all((w == 1).all() for w in weights(model))
