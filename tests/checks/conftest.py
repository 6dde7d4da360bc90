"""Four healthy networks, two optimizers and Gaussian clusters to learn. B batch, K classes."""

import pytest
import torch
from torch import Tensor, nn

from trainlab.training.trainer import Trainer

CLASSES = 10


def make_clusters(count: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """One cluster a class, standardised: x (B, 1, 8, 8), y (B,)."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(CLASSES, 1, 8, 8, generator=generator)
    y = torch.randint(CLASSES, (count,), generator=generator)
    x = centers[y] + 0.5 * torch.randn(count, 1, 8, 8, generator=generator)
    return (x - x.mean()) / x.std(), y


def mlp(*end: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, CLASSES), *end)


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10)
    )


def with_batch_norm() -> nn.Module:
    norm = nn.BatchNorm1d(64)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64, bias=False), norm, nn.ReLU(), nn.Linear(64, CLASSES)
    )


class WithDropout(nn.Module):
    """Dropout as a module and as a function."""

    def __init__(self):
        super().__init__()
        self.first, self.head, self.drop = nn.Linear(64, 128), nn.Linear(128, 10), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.drop(self.first(x.flatten(1)).relu())
        return self.head(nn.functional.dropout(hidden, 0.5, self.training))


def momentum(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=3e-3)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def clusters():
    return make_clusters()


@pytest.fixture(params=[mlp, cnn, with_batch_norm, WithDropout])
def healthy(request):
    """A function that builds a healthy network."""
    return request.param


@pytest.fixture(params=[momentum, adam])
def optimizer(request):
    """A function from a network to an optimizer with a sensible lr."""
    return request.param


@pytest.fixture
def fresh_of(clusters):
    """(build, ...) -> `fresh` as a config run makes it: everything anew, with the same weights."""

    def fresh_of(build=mlp, optimizer=adam, loss=nn.functional.cross_entropy, data=None, **trainer):
        x, y = clusters if data is None else data

        def fresh() -> Trainer:
            torch.manual_seed(0)
            model = build()
            return Trainer(model, loss, optimizer(model), lambda step: (x, y), 100, **trainer)

        return fresh

    return fresh_of
