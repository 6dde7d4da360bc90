"""What is an activation, a norm, a matrix: torch's classes, and one's own by their place."""

from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from trainlab.config.build import Door
from trainlab.nn import norm
from trainlab.nn.cnn import cnn
from trainlab.nn.mlp import mlp
from trainlab.nn.residual import residual_mlp, resnet20
from trainlab.optim.groups import decayed_parameters, parameter_groups
from trainlab.stack.layers import single_name, stack
from trainlab.training.modules import activation_name, activations, matrices, norms

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.mark.parametrize("word", sorted(p.stem for p in (CONF / "activation").glob("*.yaml")))
def test_an_activation_has_the_name_of_its_word(word):
    made = Door()(yaml.safe_load((CONF / "activation" / f"{word}.yaml").read_text()))()
    assert activation_name(made) == word


class Wave(nn.Module):
    """sin, nobody's class."""

    def forward(self, x):
        return torch.sin(x)


class Centred(nn.Module):
    """A norm that is not called one: x without its mean over the sample; its gain has two dims."""

    def __init__(self, *shape):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))

    def forward(self, x):
        return (x - x.mean(1, keepdim=True)) * self.weight


def centred(layer, activation=None):
    return norm.block(layer, Centred(1, len(layer.weight)), activation)


MODELS = {
    "mlp": (partial(mlp, widths=[6, 6]), (1, 8, 8), 2),
    "cnn": (partial(cnn, channels=[4, 4]), (1, 8, 8), 2),
    "residual_mlp": (partial(residual_mlp, widths=[6, 6]), (8,), 5),
    "resnet20": (resnet20, (1, 8, 8), 19),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_names_the_place_of_the_activation(name):
    """So an activation of one's own is seen wherever one of torch's is."""
    build, shape, count = MODELS[name]
    for kind in (nn.ReLU, Wave):
        found = [m for _, _, m in activations(build(shape, 3, kind, norm.none))]
        assert sum(isinstance(m, kind) for m in found) == count


def test_a_norm_of_ones_own_is_known_by_its_place():
    model = mlp((8,), 3, nn.ReLU, centred, widths=[6, 5])
    assert [type(m) for m in norms(model)] == [Centred, Centred]
    weights = [f"{layer}.weight" for layer in ("hidden1.layer", "hidden2.layer", "head")]
    assert list(matrices(model)) == weights
    decaying = decayed_parameters(model)
    assert [id(p) for p in decaying] == [id(model.get_parameter(n)) for n in weights]
    groups = parameter_groups(model, 0.1, 0.5)
    own = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert own[id(model.hidden1.norm.weight)] == 0 and own[id(model.hidden1.layer.weight)] == 0.5


class Affine(nn.Module):
    """A gain and a shift of one shape, in no place of a norm."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(2, 4)), nn.Parameter(torch.zeros(2, 4))


class NormedLinear(nn.Linear):
    """A matrix, whatever its name has in it."""


class ScaleNorm(nn.Module):
    """Says that it is one."""

    def __init__(self):
        super().__init__()
        self.gains = nn.Parameter(torch.ones(3, 1, 1))


@pytest.mark.parametrize(
    ("module", "found"),
    [
        (nn.Linear(4, 3), ["0.weight"]),
        (nn.Linear(1, 3), ["0.weight"]),
        (nn.Conv2d(1, 3, 1), ["0.weight"]),
        (NormedLinear(4, 3), ["0.weight"]),
        (nn.LayerNorm((2, 4)), []),
        (nn.RMSNorm((2, 4)), []),
        (nn.BatchNorm2d(3), []),
        (Affine(), []),
        (ScaleNorm(), []),
        (weight_norm(nn.Linear(4, 3)), ["0.parametrizations.weight.original1"]),
    ],
)
def test_what_is_a_matrix(module, found):
    assert list(matrices(nn.Sequential(module))) == found


@pytest.mark.parametrize(
    "kind", [norm.none, norm.batch, norm.layer, norm.weight, norm.rms, centred]
)
def test_the_matrices_of_a_stack_are_those_of_its_runs(kind):
    models = [mlp((8,), 3, Wave, kind, widths=[6, 5]) for _ in range(3)]
    together = stack(models, [0, 1, 2])
    assert [single_name(n) for n in matrices(together, runs=3)] == list(matrices(models[0]))
