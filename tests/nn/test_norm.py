"""Norms against torch and their equations in float64."""

import copy

import pytest
import torch
from torch import nn

from trainlab.errors import ConfigError
from trainlab.nn import norm
from trainlab.nn.activation import Maxout
from trainlab.nn.cnn import cnn
from trainlab.nn.mlp import mlp

IMAGES_ONLY = {"instance"}
BEFORE_ONLY = {"none", "weight"}


def layer_of(kind, inputs=6, outputs=16):
    return nn.Linear(inputs, outputs) if kind == "table" else nn.Conv2d(inputs, outputs, 3)


def batch_of(kind, inputs=6):
    return torch.randn(9, inputs, *(() if kind == "table" else (7, 5)))


def words_and_places(word, name, kind, place):
    if (kind == "table" and name in IMAGES_ONLY) or (place == "after" and name in BEFORE_ONLY):
        return None
    return word("norm", name, place=place)


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("kind", ["table", "image"])
@pytest.mark.parametrize("active", [nn.ReLU, Maxout, lambda: None])
def test_every_word_keeps_its_parts_in_order(norm_word, word, kind, place, active):
    make = words_and_places(word, norm_word, kind, place)
    if make is None:
        with pytest.raises(ConfigError, match="use norm=layer|use norm.place=before"):
            word("norm", norm_word, place=place)(layer_of(kind), active())
        return
    block = make(layer_of(kind, outputs=32), active())
    names = [name for name, _ in block.named_children()]
    usual = (
        ["layer", "norm", "activation"] if place == "before" else ["layer", "activation", "norm"]
    )
    assert names == [name for name in usual if name in names]
    assert ("norm" in names) == (norm_word not in BEFORE_ONLY)
    out = block(batch_of(kind))
    assert out.shape[1] == (16 if active is Maxout else 32)
    assert out.isfinite().all()


def normalised(x, over, eps, mean=True):
    """(x - mean) / sqrt(var + eps), or x / sqrt(E x^2 + eps)."""
    centered = x - x.mean(over, keepdim=True) if mean else x
    return centered / (centered.square().mean(over, keepdim=True) + eps).sqrt()


# over which dimensions of (B, G, C/G, H, W) each of them averages, and how many groups G there are
EQUATIONS = {
    "batch": (1, (0, 3, 4), True),
    "layer": (1, (1, 2, 3, 4), True),
    "group": (4, (2, 3, 4), True),
    "instance": (16, (2, 3, 4), True),
    "rms": (1, (1, 2, 3, 4), False),
}


@pytest.mark.parametrize("kind", ["table", "image"])
@pytest.mark.parametrize("name", EQUATIONS)
def test_it_computes_its_equation(name, kind, word):
    if kind == "table" and name in IMAGES_ONLY:
        return
    groups, over, mean = EQUATIONS[name]
    keys = {"groups": 4} if name == "group" else {}
    block = word("norm", name, eps=1e-3, **keys)(layer_of(kind)).double()
    with torch.no_grad():
        for p in block.norm.parameters():
            p.uniform_(0.5, 2)
    x = batch_of(kind).double()
    z = block.layer(x)
    parts = z.reshape(len(z), groups, 16 // groups, *(z.shape[2:] or (1, 1)))
    expected = normalised(parts, over, 1e-3, mean).reshape(z.shape)
    per_channel = (16,) + (1,) * (z.dim() - 2)
    expected = expected * block.norm.weight.view(per_channel)
    if getattr(block.norm, "bias", None) is not None:
        expected = expected + block.norm.bias.view(per_channel)
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["batch", "instance", "group", "layer", "rms", "weight", "none"])
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_bias_is_dropped_exactly_where_it_has_no_effect(name, place, word):
    """A bias of its own for every channel does nothing before batch and instance norm."""
    if place == "after" and name in BEFORE_ONLY:
        return
    block = word("norm", name, place=place)(nn.Conv2d(6, 16, 3), nn.ReLU())
    redundant = place == "before" and name in ("batch", "instance")
    assert (block.layer.bias is None) == redundant
    x = batch_of("image")
    out = block(x)
    shift = torch.randn(16)
    block.layer.bias = nn.Parameter(shift)
    with torch.no_grad():
        moved = (block(x) - out).abs().max()
    assert (moved < 1e-4) == redundant


def test_groups_of_one_channel_drop_the_bias_too():
    assert norm.group(nn.Conv2d(6, 16, 3), groups=16).layer.bias is None


@pytest.mark.parametrize(
    "layer, groups, near",
    [(nn.Linear(3, 12), 8, 6), (nn.Linear(3, 12), 12, 6), (nn.Conv2d(3, 12, 1), 7, 6),
     (nn.Conv2d(3, 7, 1), 4, 1), (nn.Linear(3, 12), 100, 6)],
)  # fmt: skip
def test_groups_that_do_not_fit_are_refused_with_the_nearest_that_do(layer, groups, near):
    with pytest.raises(ConfigError, match=f"norm.groups = {groups}: .*use norm.groups={near}$"):
        norm.group(layer, groups=groups)
    norm.group(layer, groups=near)


def test_instance_norm_refuses_tables():
    with pytest.raises(ConfigError, match="norm = instance: .* use norm=layer"):
        mlp((6,), 3, nn.ReLU, norm.instance)


def test_weight_norm_is_torchs_and_its_gain_is_the_length_of_each_row():
    torch.manual_seed(3)
    block = norm.weight(nn.Linear(6, 4), nn.ReLU())
    torch.manual_seed(3)
    plain = nn.Linear(6, 4)
    torch.testing.assert_close(block.layer.weight, plain.weight)
    g, v = block.layer.parametrizations.weight.parameters()
    with torch.no_grad():
        g.mul_(2)
        v.mul_(7)
    torch.testing.assert_close(block.layer.weight, 2 * plain.weight)
    # a penalty on g is one on the effective weights; one on v changes nothing but the steps of v
    torch.testing.assert_close(g.square().sum(), block.layer.weight.square().sum())
    x = torch.randn(5, 6)
    torch.testing.assert_close(block(x), (2 * x @ plain.weight.T + plain.bias).relu())


@pytest.mark.parametrize("build, shape", [(mlp, (6,)), (cnn, (2, 8, 8))])
def test_weight_norm_copies_saves_and_loads(build, shape):
    model, other = (build(shape, 3, nn.ReLU, norm.weight) for _ in range(2))
    x = torch.randn(4, *shape)
    copied = copy.deepcopy(model)
    assert torch.equal(copied(x), model(x))
    with torch.no_grad():
        next(p for n, p in copied.named_parameters() if n.endswith("original0")).zero_()
    assert not torch.equal(copied(x), model(x))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))
    model(x).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_place_after_stands_behind_the_activation():
    block = norm.batch(nn.Linear(6, 16), nn.ReLU(), place="after")
    out = block(torch.randn(50, 6))
    torch.testing.assert_close(out.mean(0), torch.zeros(16), atol=1e-5, rtol=0)
