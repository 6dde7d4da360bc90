"""Which parameters are trained, how fast, and how far they decay."""

import math
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from trainlab.errors import ConfigError
from trainlab.nn import norm
from trainlab.nn.cnn import cnn
from trainlab.nn.mlp import mlp
from trainlab.observe.console import Show
from trainlab.optim import penalty
from trainlab.optim.groups import decayed_parameters, parameter_groups, rest, trained_matrices


def model_of():
    parts = [
        ("stem", nn.Conv2d(1, 4, 3)), ("norm", nn.BatchNorm2d(4)), ("act", nn.PReLU(4)),
        ("flat", nn.Flatten()), ("hidden", nn.Linear(16, 8)), ("wide", nn.LayerNorm((2, 4))),
        ("head", nn.Linear(8, 3)),
    ]  # fmt: skip
    return nn.Sequential(OrderedDict(parts))


def named(model, found):
    """Parameter name -> its group."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: group for group in found for p in group["params"]}


@pytest.mark.parametrize(
    "model",
    [
        model_of(),
        mlp((1, 4, 4), 3, nn.ReLU, norm.batch, widths=[8, 8]),
        cnn((1, 8, 8), 3, nn.ReLU, norm.layer, channels=[4, 4]),
    ],
)
def test_by_default_there_is_one_group_in_the_models_order(model):
    (group,) = parameter_groups(model, 0.1, 0.0)
    assert all(a is b for a, b in zip(group["params"], model.parameters(), strict=True))
    assert (group["lr"], group["weight_decay"], group["name"]) == (0.1, 0.0, "all")


def test_biases_and_norms_do_not_decay_by_default():
    model = model_of()
    found = named(model, parameter_groups(model, 0.1, 0.5))
    assert found.keys() == dict(model.named_parameters()).keys()
    decaying = {name for name, group in found.items() if group["weight_decay"] == 0.5}
    assert decaying == {"stem.weight", "hidden.weight", "head.weight"}
    assert {group["weight_decay"] for group in found.values()} == {0.5, 0.0}
    assert {group["lr"] for group in found.values()} == {0.1}
    (everything,) = parameter_groups(model, 0.1, 0.5, decay_all=True)
    assert everything["weight_decay"] == 0.5


def test_the_gain_of_weight_norm_is_no_matrix():
    model = nn.Sequential(nn.Linear(4, 4), weight_norm(nn.Linear(4, 3)), nn.Linear(3, 2))
    found = named(model, parameter_groups(model, 0.1, 0.5, layer_decay=0.5))
    assert found["1.parametrizations.weight.original0"]["weight_decay"] == 0
    assert found["1.parametrizations.weight.original1"]["weight_decay"] == 0.5
    assert {found[n]["lr"] for n in found if n[0] == "1"} == {0.05}


def test_the_last_pattern_that_matches_decides():
    model = model_of()
    found = named(
        model,
        parameter_groups(
            model,
            0.1,
            0.5,
            factors=["*:2", "head*:10", "head.bias:.5"],
            decays=["*bias:1", "stem.*:1e-1"],
        ),  # fmt: skip
    )
    assert found["hidden.weight"]["lr"] == pytest.approx(0.2)
    assert found["head.weight"]["lr"] == pytest.approx(1.0)
    assert found["head.bias"]["lr"] == pytest.approx(0.05)
    assert found["head.bias"]["weight_decay"] == 0.5
    assert found["stem.bias"]["weight_decay"] == pytest.approx(0.05)
    assert found["norm.weight"]["weight_decay"] == 0


def test_layers_below_are_slower_by_powers():
    model = model_of()
    found = named(model, parameter_groups(model, 0.1, 0.0, layer_decay=0.5, factors=["stem*:4"]))
    depth = {name: group["lr"] for name, group in found.items()}
    for name, lr in depth.items():
        layer = name.split(".")[0]
        expected = {"stem": 0.1, "hidden": 0.05, "wide": 0.05, "head": 0.1}.get(layer, 0.025)
        assert lr == pytest.approx(expected), name


def test_the_head_stands_last_of_the_groups_with_matrices():
    model = model_of()
    found = parameter_groups(
        model, 0.1, 0.5, factors=["stem.bias:3", "head.weight:2"], layer_decay=0.9
    )
    with_matrices = [g for g in found if g["weight_decay"]]
    last = with_matrices[-1]
    assert [id(p) for p in last["params"]] == [id(model.head.weight)]
    assert found[: len(with_matrices)] == with_matrices  # weights first: their lr is logged


def test_a_frozen_part_stays_bit_for_bit_statistics_included():
    model = model_of()
    found = parameter_groups(model, 0.1, 0.01, freeze=["stem*", "norm.*"])
    assert named(model, found).keys() == {
        name for name, _ in model.named_parameters() if not name.startswith(("stem", "norm"))
    }
    before = {name: t.clone() for name, t in model.state_dict().items()}
    optimizer = torch.optim.SGD(found, lr=0.1)
    model.train()
    rest(model, ["stem*", "norm.*"])
    assert not model.norm.training
    assert model.hidden.training
    for _ in range(3):
        optimizer.zero_grad()
        logits = model[:5](torch.randn(6, 1, 4, 4))
        model.head(model.wide(logits.view(6, 2, 4)).flatten(1)).square().sum().backward()
        optimizer.step()
    for name, now in model.state_dict().items():
        frozen = name.startswith(("stem", "norm"))
        moved = not torch.equal(now, before[name])
        assert moved is not frozen, name


def test_rest_leaves_trained_norms_and_takes_those_without_parameters_by_name():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3), nn.BatchNorm1d(3, affine=False))
    model.train()
    rest(model)
    assert all(module.training for module in model)
    rest(model, ["2.*"])
    assert [module.training for module in model] == [True, True, False]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"factors": ["haed*:10"]}, r"groups\.lr = haed\*: no parameter has .*stem\.weight"),
        ({"decays": ["x:0"]}, r"groups\.decay = x: no parameter"),
        ({"freeze": ["conv*"]}, r"groups\.freeze = conv\*: no parameter"),
        ({"freeze": ["*"]}, r"groups\.freeze = \['\*'\]: leaves nothing to train"),
        ({"factors": ["head*"]}, r"groups\.lr = head\*: must be pattern:factor"),
        ({"factors": ["head*:ten"]}, "must be pattern:factor"),
        ({"factors": ["head*:-1"]}, "must be pattern:factor"),
        ({"factors": [":2"]}, "must be pattern:factor"),
        ({"factors": ["head*:nan"]}, "must be pattern:factor"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(keys, says):
    with pytest.raises(ConfigError, match=says) as caught:
        parameter_groups(model_of(), 0.1, 0.1, **keys)
    assert len(str(caught.value).splitlines()) == 1


def test_the_groups_add_up_and_are_printed(capsys):
    model = model_of()
    found = parameter_groups(model, 0.2, 0.5, factors=["head*:10"])
    rates = {(round(group["lr"], 9), group["weight_decay"]) for group in found}
    assert rates == {(0.2, 0.5), (0.2, 0), (2, 0.5), (2, 0)}
    Show().groups(found)
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "." in line]
    assert ["head.weight", "24", "2", "0.5"] in rows
    total = sum(p.numel() for p in model.parameters())
    assert sum(int(row[-3].replace(",", "")) for row in rows) == total


def test_what_decays_is_what_the_penalties_see():
    model = model_of()
    for keys in ({}, {"decay_all": True}, {"decays": ["head*:0", "stem.bias:1"]}):
        found = named(model, parameter_groups(model, 0.1, 0.5, **keys))
        decaying = [name for name, _ in model.named_parameters() if found[name]["weight_decay"]]
        names = {id(p): name for name, p in model.named_parameters()}
        assert [names[id(p)] for p in decayed_parameters(model, **keys)] == decaying
    assert [id(p) for p in decayed_parameters(model)] == [id(p) for p in trained_matrices(model)]
    parameter_groups(model, 0.1, 0.5, freeze=["hidden*"])
    assert len(decayed_parameters(model)) == len(trained_matrices(model)) == 2


def test_penalty_l2_equals_sgds_weight_decay_on_what_decays():
    """20 steps in float64 with momentum, batch norm and biases, to 1e-12."""
    ends = []
    for strength in (0.0, 0.03):
        torch.manual_seed(3)
        model = mlp((1, 4, 4), 3, nn.Tanh, norm.batch, widths=[8, 8]).double()
        optimizer = torch.optim.SGD(
            parameter_groups(model, 0.1, 0.03 - strength), lr=0.1, momentum=0.9
        )
        acting = decayed_parameters(model)
        for _ in range(20):
            x = torch.randn(12, 1, 4, 4, dtype=torch.float64)
            loss = nn.functional.cross_entropy(model(x), torch.arange(12) % 3)
            if strength:
                loss = loss + penalty.Elastic(l2=strength)(acting)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ends.append([p.detach() for p in model.parameters()])
    torch.testing.assert_close(*ends, rtol=0, atol=1e-12)
    assert math.isfinite(float(ends[0][0].sum()))
