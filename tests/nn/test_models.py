"""Every model on every shape of image: it takes it or says which one does; against torchvision and
the papers' counts."""

import copy
from functools import partial

import pytest
import torch
import torchvision.models
from omegaconf import OmegaConf
from torch import nn
from torchvision.ops import StochasticDepth

from trainlab.config import words
from trainlab.config.build import Door
from trainlab.errors import ConfigError
from trainlab.nn import cnn, init, mlp, norm, pretrained, residual
from trainlab.training.modules import BATCH_NORMS

WORDS = words.groups()["model"]
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (13,)]
REFUSED = {
    ("lenet", (1, 8, 8)): "12x12 at least, the data has 8x8; use model=cnn",
    **{
        (word, (13,)): "use model=mlp"
        for word in ("cnn", "lenet", "vgg_small", "resnet20", "resnet18", "torchvision")
    },
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(word: str, data, activation=nn.ReLU, norm=norm.none, **keys) -> nn.Module:
    node = OmegaConf.load(words.conf() / "model" / f"{word}.yaml")
    return Door()(OmegaConf.merge(node, keys))(data, 10, activation=activation, norm=norm)


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def blocks(model: nn.Module) -> list[residual.Residual]:
    return [m for m in model.modules() if isinstance(m, residual.Residual)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("word", WORDS)
def test_takes_the_data_or_names_a_model_that_does(word, shape):
    if message := REFUSED.get((word, shape)):
        with pytest.raises(ConfigError, match=rf"^model = {word}: .*{message}"):
            build(word, shape)
        return
    torch.manual_seed(0)
    model = build(word, shape)
    x = torch.randn(2, *shape)
    logits = model(x)
    assert logits.shape == (2, 10)
    logits.logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    again = build(word, shape)
    again.load_state_dict(model.state_dict())
    for other in (again, copy.deepcopy(model)):
        assert torch.equal(other.eval()(x), model.eval()(x))


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("make", [norm.none, norm.batch, norm.layer])
@pytest.mark.parametrize("word", [word for word in WORDS if word not in ("linear", "torchvision")])
def test_every_norm_trains_in_every_model(word, make, place):
    normed = make if make is norm.none else partial(make, place=place)
    model = build(word, (3, 16, 16), nn.ELU, normed, dropout=0.2)
    x, y = torch.randn(4, 3, 16, 16), torch.arange(4)
    nn.functional.cross_entropy(model(x), y).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert sum(isinstance(m, nn.Dropout) for m in model.modules()) == (2 if word == "mlp" else 1)
    assert not any(isinstance(m, nn.ReLU) for m in model.modules())


def test_counts_of_the_papers():
    assert size(build("resnet20", (3, 32, 32), norm=norm.batch)) == 269_722  # 0.27 M, table 6
    assert size(build("lenet", (1, 28, 28))) == 61_706  # 60,000 with LeCun's sparse connections
    convs = [m for m in build("vgg_small", (3, 32, 32)).modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convs] == [32, 32, 64, 64, 128, 128]


def test_resnet18_equals_torchvisions_with_a_small_stem():
    theirs = torchvision.models.resnet18(num_classes=10)
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    ours = build("resnet18", (3, 32, 32), norm=norm.batch)
    assert size(ours) == size(theirs)
    state = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict(state)
    x = torch.randn(4, 3, 32, 32)
    for mode in (True, False):
        torch.testing.assert_close(ours.train(mode)(x), theirs.train(mode)(x))


def test_resnet20_is_the_equation_with_option_a():
    torch.manual_seed(1)
    model = build("resnet20", (3, 32, 32), norm=norm.batch).double().eval()
    h = x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    h = torch.relu(model.stem.norm(model.stem.layer(x)))
    for stage in (1, 2, 3):
        for number in (1, 2, 3):
            block = model.get_submodule(f"block{stage}_{number}")
            first, second = block.branch
            down = stage > 1 and number == 1
            f = torch.relu(first.norm(first.layer(h)))
            f = second.norm(second.layer(f))
            if down:
                zeros = torch.zeros_like(h[:, : h.shape[1] // 2, ::2, ::2])
                h = torch.cat([zeros, h[:, :, ::2, ::2], zeros], 1)
            h = torch.relu(h + f)
    torch.testing.assert_close(model.head(h.mean((2, 3))), model(x))


@pytest.mark.parametrize("word", ["resnet20", "resnet18", "residual_mlp"])
def test_a_branch_whose_last_norm_has_gain_0_is_its_shortcut(word):
    model = build(word, (3, 32, 32), nn.Tanh, norm.batch).eval()
    for block in blocks(model):
        last = [m for m in block.branch.modules() if isinstance(m, BATCH_NORMS)]
        nn.init.zeros_(last[-1].weight)
    inputs = []
    wrapped = blocks(model)[1]
    wrapped.branch.register_forward_hook(lambda m, args, out: inputs.append((args[0], out)))
    model(torch.randn(2, 3, 32, 32))
    ((h, out),) = inputs
    assert (out == 0).all()
    assert torch.equal(wrapped(h), wrapped.activation(h))


@pytest.mark.parametrize("word", ["resnet20", "resnet18", "residual_mlp"])
def test_drop_path_grows_with_depth(word):
    model = build(word, (3, 32, 32), drop_path=0.5)
    rates = [m.mask.p for m in model.modules() if isinstance(m, residual.DropPath)]
    count = len(blocks(model))
    assert rates == pytest.approx([0.5 * i / count for i in range(1, count + 1)])
    plain = build(word, (3, 32, 32))
    assert not any(isinstance(m, residual.DropPath) for m in plain.modules())
    plain.load_state_dict(model.state_dict())  # it has no parameters and renames none
    x = torch.randn(4, 3, 32, 32)
    assert torch.equal(plain.eval()(x), model.eval()(x))


@pytest.mark.parametrize("shape", [(400, 5), (400, 2, 3, 3)])
def test_drop_path_equals_torchvisions(shape):
    x, ours, theirs = torch.randn(shape), residual.DropPath(0.3), StochasticDepth(0.3, "row")
    torch.manual_seed(0)
    mine = ours(x)
    torch.manual_seed(0)
    torch.testing.assert_close(mine, theirs(x))
    gone = (mine == 0).flatten(1)
    assert torch.equal(gone.all(1), gone.any(1))  # whole samples
    assert 0.2 < gone.all(1).float().mean() < 0.4
    assert torch.equal(ours.eval()(x), x)


def test_dropout_off_is_drop_path_off():
    from trainlab.checks.tools import no_dropout

    model = build("residual_mlp", (13,), drop_path=0.5)
    x = torch.randn(5, 13)
    with no_dropout(model):
        assert torch.equal(model(x), model(x))
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize("make", [norm.none, norm.batch, norm.layer])
@pytest.mark.parametrize("shape", ["rectangle", "funnel", "inverted"])
@pytest.mark.parametrize(("depth", "budget"), [(1, 1000), (3, 50_000), (6, 200_000), (4, 260)])
def test_a_budget_is_met_as_nearly_as_may_be(make, shape, depth, budget):
    keys = {"depth": depth, "shape": shape, "budget": budget}
    model = build("mlp", (1, 4, 4), nn.PReLU, make, **keys)
    hidden = [m for m in model.modules() if isinstance(m, nn.Linear)][:-1]
    found = [m.out_features for m in hidden]
    assert len(found) == depth
    assert size(model) <= budget
    assert not any(p.is_meta for p in model.parameters())
    w = max(found)
    assert found == {
        "rectangle": [w] * depth,
        "funnel": [max(1, round(w * (depth - i) / depth)) for i in range(depth)],
        "inverted": [max(1, round(w * (i + 1) / depth)) for i in range(depth)],
    }[shape]  # fmt: skip
    wider = [max(1, round((w + 1) * n / depth)) for n in range(1, depth + 1)]
    wider = {"rectangle": [w + 1] * depth, "funnel": wider[::-1], "inverted": wider}[shape]
    assert size(mlp.mlp((1, 4, 4), 10, nn.PReLU, make, widths=wider)) > budget


def test_a_budget_draws_the_weights_of_those_widths():
    torch.manual_seed(3)
    solved = build("mlp", (1, 8, 8), depth=2, budget=5000)
    widths = [solved.hidden1.layer.out_features, solved.hidden2.layer.out_features]
    torch.manual_seed(3)
    given = build("mlp", (1, 8, 8), widths=widths)
    assert all(map(torch.equal, solved.parameters(), given.parameters()))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"depth": 3}, "model.depth = 3: needs its budget; add model.budget="),
        ({"budget": 9999}, "model.budget = 9999: needs the number of layers; add model.depth="),
        ({"depth": 2, "budget": 9999, "widths": [9]}, r"= \[9\]: model.depth = 2 makes its own"),
        ({"depth": 2, "budget": 50}, "one unit have 87 parameters; use model.budget=870"),
    ],
)
def test_an_impossible_budget_is_refused(keys, says):
    with pytest.raises(ConfigError, match=says):
        build("mlp", (1, 8, 8), **keys)


def test_too_many_poolings_name_how_many_fit():
    with pytest.raises(ConfigError, match=r"at most 3 times; use model.channels=\[8,8,8\]"):
        cnn.vgg_small((1, 8, 8), 10, nn.ReLU, norm.none, channels=[8, 8, 8, 8])


def test_a_residual_mlp_needs_a_block():
    with pytest.raises(ConfigError, match=r"model.widths = \[\].*model=linear"):
        build("residual_mlp", (13,), widths=[])


def test_a_residual_mlp_of_changing_width():
    model = build("residual_mlp", (13,), widths=[8, 8, 4])
    kinds = [type(block.shortcut) for block in blocks(model)]
    assert kinds == [nn.Identity, nn.Identity, nn.Linear]
    assert model(torch.randn(2, 13)).shape == (2, 10)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5"])
def test_torchvision_has_our_head_first_layer_and_activation(name):
    model = build("torchvision", (1, 32, 32), nn.ELU, name=name, dropout=0.25)
    assert not any(
        isinstance(m, pretrained.HIDDEN) for m in model.modules() if type(m) is not nn.ELU
    )
    gates = sum(isinstance(m, nn.Hardsigmoid) for m in model.modules())
    assert gates == (9 if name == "mobilenet_v3_small" else 0)
    assert next(m for m in model.modules() if isinstance(m, nn.Conv2d)).in_channels == 1
    assert any(isinstance(m, nn.Dropout) and m.p == 0.25 for m in model.modules())
    assert all(m.training for m in model.modules())
    assert model(torch.randn(3, 1, 32, 32)).shape == (3, 10)


def test_torchvision_untouched_but_for_the_head():
    """Three channels and ReLU: torchvision's own resnet18, shared in-place ReLUs or not."""
    ours, theirs = build("torchvision", (3, 32, 32)), torchvision.models.resnet18(num_classes=10)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x))


def test_trained_filters_give_for_grey_what_they_gave_for_three_equal_channels():
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    before = copy.deepcopy(model)
    pretrained._adapt_first(model, 1, trained=True)
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(model(x), before(x.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"name": "resnet81"}, "model.name = resnet81: not a classifier.*use model.name=resnet"),
        ({"name": "alexnet"}, "alexnet: does not work on 3x32x32 .*use model.name=resnet18"),
        ({"name": "vit_b_32"}, "Expected 224 but got 32"),
        ({"weights": "IMAGENET"}, "model.weights = IMAGENET: resnet18 has IMAGENET1K_V1, DEFAULT"),
        ({"norm": norm.batch}, "keeps the norms of torchvision's own network; use norm=none"),
    ],
)
def test_what_torchvision_cannot_is_refused(keys, says):
    with pytest.raises(ConfigError, match=says):
        build("torchvision", (3, 32, 32), **keys)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ModuleNotFoundError("no"), "is not installed; pip install"),
        (RuntimeError("operator torchvision::nms does not exist"), "do not fit together"),
    ],
)
def test_a_missing_or_unfit_torchvision_is_one_line(monkeypatch, error, says):
    real = __import__

    def broken(name, *args, **kwargs):
        if name == "torchvision":
            raise error
        return real(name, *args, **kwargs)

    monkeypatch.setattr("builtins.__import__", broken)
    with pytest.raises(ConfigError, match=says) as caught:
        pretrained._imported()
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_fetched_are_one_line(monkeypatch, tmp_path):
    from urllib.error import URLError

    def offline(*args, **kwargs):
        raise URLError("no route")

    monkeypatch.setattr(torchvision.models._api.WeightsEnum, "get_state_dict", offline)
    with pytest.raises(ConfigError, match=r"model.weights = DEFAULT: not fetched .*no route.*null"):
        build("torchvision", (3, 32, 32), weights="DEFAULT")


def test_pretrained_weights_are_not_drawn_anew_in_silence():
    model = build("torchvision", (3, 32, 32))
    model.pretrained = "DEFAULT"
    x = torch.zeros(2, 3, 32, 32)
    with pytest.raises(
        ConfigError, match="model.weights = DEFAULT: to keep them, init=torch_default"
    ):
        init.initialise(model, x, weight=nn.init.zeros_)
    before = [p.clone() for p in model.parameters()]
    init.initialise(model, x, weight=partial(init.keep), bias=None)
    assert all(map(torch.equal, before, model.parameters()))


class Pairs(nn.Module):
    """The larger of two units each, as maxout: the layer before must be twice as wide."""

    def forward(self, x):
        return x.unflatten(1, (-1, 2)).amax(2)


@pytest.mark.parametrize("word", [word for word in WORDS if word != "torchvision"])
@pytest.mark.parametrize("make", [norm.none, norm.batch])
def test_an_activation_may_need_a_wider_layer_before_it(word, make, monkeypatch):
    for module in (mlp, cnn, residual):
        monkeypatch.setattr(module, "sized", lambda activation, width: (2 * width, activation()))
    model = build(word, (3, 16, 16), Pairs, make)
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 10)
    assert any(isinstance(m, Pairs) for m in model.modules()) == (word != "linear")


def test_torchvision_refuses_an_activation_that_needs_wider_layers(monkeypatch):
    monkeypatch.setattr(pretrained, "sized", lambda activation, width: (2 * width, activation()))
    with pytest.raises(ConfigError, match="makes 64 units of 128.*use model=resnet18"):
        build("torchvision", (3, 32, 32), Pairs)
