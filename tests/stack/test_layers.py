"""Each layer of a stack equals the R layers it holds; what cannot is refused by name."""

import pytest
import torch
from benches import bench_of
from stacking import single, typed
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm as spectral

from trainlab import stack as stacks
from trainlab.errors import ConfigError
from trainlab.stack.layers import single_name


class Odd(nn.Sequential):
    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.parametrize(
    ("models", "words"),
    [
        (
            [nn.Sequential(nn.Dropout2d()), nn.Sequential(nn.Dropout2d())],
            "Dropout2d does not stack",
        ),
        ([nn.ELU(1.0), nn.ELU(2.0)], "runs of a stack differ"),
        ([nn.BatchNorm1d(3, momentum=None)] * 2, "BatchNorm1d does not stack: it averages"),
        ([nn.BatchNorm3d(3)] * 2, "BatchNorm3d does not stack: it holds running figures"),
        ([nn.InstanceNorm2d(3, track_running_stats=True)] * 2, "InstanceNorm2d does not stack"),
        ([spectral(nn.Linear(2, 2)), spectral(nn.Linear(2, 2))], "Linear does not stack: it comp"),
        (
            [nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 3))],
            "runs of a stack differ",
        ),
    ],
)
def test_what_does_not_stack_is_refused_by_name(models, words):
    with pytest.raises(ConfigError, match=words):
        stacks.stack(models, (0, 1))


class Wild(nn.Module):
    """Its forward needs the shape of one run's batch."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)

    def forward(self, x):
        return torch.flatten(self.norm(self.conv(x)).relu(), 1)[: len(x)]


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.inner = nn.Parameter(torch.ones(2, 1, 1)), nn.Conv2d(2, 2, 1)

    def forward(self, x):
        return self.inner(x) * self.scale


MAPPED = {
    "conv": lambda: nn.Conv2d(2, 3, 3, padding=1),
    "grouped conv": lambda: nn.Conv2d(2, 4, 3, stride=2, dilation=2, padding=2, groups=2),
    "conv without bias": lambda: nn.Conv2d(2, 3, 2, bias=False),
    "reflecting conv": lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
    "transposed conv": lambda: nn.ConvTranspose2d(2, 3, 2),
    "group norm": lambda: nn.GroupNorm(2, 2),
    "batch norm without gain": lambda: nn.BatchNorm2d(2, affine=False),
    "batch norm without figures": lambda: nn.BatchNorm2d(2, track_running_stats=False),
    "layer norm": lambda: nn.LayerNorm([4, 4]),
    "layer norm without gain": lambda: nn.LayerNorm(4, elementwise_affine=False),
    "rms norm": lambda: nn.RMSNorm(4),
    "instance norm": lambda: nn.InstanceNorm2d(2, affine=True),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 3, 3)),
    "a slope a channel": lambda: nn.PReLU(2),
    "a module of one's own": lambda: Odd(nn.Conv2d(2, 2, 1), nn.PReLU()),
    "with batch norm": lambda: Odd(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.ReLU()),
    "one that looks at shapes": Wild,
    "one with a weight of its own": Scaled,
    "maximum": lambda: nn.MaxPool2d(2),
    "mean": lambda: nn.AdaptiveAvgPool2d(1),
    "softmax": lambda: nn.Softmax(dim=1),
    "flatten some": lambda: nn.Flatten(1, 2),
}


@pytest.mark.parametrize("name", MAPPED)
def test_every_layer_equals_itself_alone(name):
    torch.manual_seed(0)
    models = [MAPPED[name]().double() for _ in range(3)]
    for model in models:
        for p in model.parameters():
            nn.init.normal_(p)
    stacked = stacks.stack(models, (0, 1, 2))
    x = torch.randn(3, 5, 2, 4, 4, dtype=torch.float64)
    assert {single_name(name) for name in stacked.state_dict()} == {*models[0].state_dict()}
    out = stacked(x)
    for run, model in enumerate(models):
        torch.testing.assert_close(out[run], model(x[run]), rtol=0, atol=1e-12)
    assert len(list(stacked.parameters())) == len(list(models[0].parameters()))
    for name, buffer in stacked.named_buffers():
        for run, model in enumerate(models):
            torch.testing.assert_close(buffer[run], model.get_buffer(name), rtol=0, atol=1e-12)
    if list(models[0].parameters()):
        out.sum().backward()
        assert all(p.grad is not None and p.grad.shape[0] == 3 for p in stacked.parameters())


@pytest.mark.parametrize("shared", [True, False])
def test_a_convolution_of_the_same_images_is_one_wide_one(shared):
    torch.manual_seed(0)
    models = [nn.Conv2d(2, 3, 3).double() for _ in range(3)]
    x = torch.randn(5, 2, 6, 6, dtype=torch.float64).expand(3, -1, -1, -1, -1)
    out = stacks.stack(models, range(3))(x if shared else x.contiguous())
    for run, model in enumerate(models):
        torch.testing.assert_close(out[run], model(x[run]), rtol=0, atol=1e-12)


class Mixing(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(64, 10)

    def forward(self, x):
        x = torch.flatten(x, 1)
        return self.inner(x - x[:1])


class Noisy(Mixing):
    def forward(self, x):
        return self.inner(torch.flatten(x, 1)) + torch.rand(len(x), 1) * self.training


@pytest.mark.parametrize(("model", "words"), [(Mixing, "each sample alone"), (Noisy, "at random")])
def test_a_model_whose_stack_would_be_another_is_refused(model, words):
    bench = bench_of(*typed())
    singles = [single(bench, {"seed": seed}) for seed in range(2)]
    for trainer in singles:
        trainer.model = model().double()
        trainer.forward, trainer.params = trainer.model, list(trainer.model.parameters())
        trainer.optimizer = torch.optim.SGD(trainer.params, lr=0.1)
    with pytest.raises(ConfigError, match=words):
        stacks.Stack(singles, range(2))


@pytest.mark.parametrize("runs", [1, 2, 3, 16, 24, 64])
def test_grouped_convolutions_and_pooling_have_the_right_gradient_in_float32(runs):
    """torch's fast kernels, which float64 does not take, had wrong ones: pytorch#50042, #52313."""
    torch.manual_seed(0)

    def net():
        return nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(3, 5, 3, padding=1), nn.ELU(), nn.AvgPool2d(2), nn.Flatten(),
            nn.Linear(20, 4),
        )  # fmt: skip

    models = [net() for _ in range(runs)]
    x = torch.randn(runs, 6, 1, 8, 8)
    stacked = stacks.stack(models, range(runs))
    stacked(x).square().sum().backward()
    for run, model in enumerate(models):
        model(x[run]).square().sum().backward()
        for name, p in model.named_parameters():
            mine = stacked.get_parameter(name).grad[run]
            torch.testing.assert_close(mine, p.grad, rtol=1e-3, atol=1e-3, msg=f"{run} {name}")
