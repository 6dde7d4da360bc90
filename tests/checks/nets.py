"""Small healthy networks and data for the tests of the checks. B batch, K classes."""

import torch
from torch import Tensor, nn

from trainlab.train import Trainer

CLASSES = 10


def clusters(
    count: int = 64, shape: tuple[int, ...] = (1, 8, 8), seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Gaussian clusters, one a class, standardised: x (B, *shape), y (B,)."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(CLASSES, *shape, generator=generator)
    y = torch.randint(CLASSES, (count,), generator=generator)
    x = centers[y] + 0.5 * torch.randn(count, *shape, generator=generator)
    return (x - x.mean()) / x.std(), y


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, CLASSES))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, CLASSES),
    )


def with_batch_norm() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 64, bias=False),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Linear(64, CLASSES),
    )


def with_dropout() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, CLASSES)
    )


HEALTHY = [mlp, cnn, with_batch_norm, with_dropout]


def momentum(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-3)


OPTIMIZERS = [momentum, adam]


def fresh_of(build, optimizer=adam, loss=nn.functional.cross_entropy, data=None, **trainer):
    """A `fresh` as a config run makes it: everything built anew, from the same seed."""
    x, y = clusters() if data is None else data

    def fresh() -> Trainer:
        torch.manual_seed(0)
        model = build()
        return Trainer(model, loss, optimizer(model), lambda step: (x, y), 100, **trainer)

    return fresh


def he(model: nn.Module, gain: float = 2**0.5) -> nn.Module:
    """Weights of std gain / sqrt(fan in), biases 0, in place."""
    for p in model.parameters():
        nn.init.normal_(p, 0, gain / p[0].numel() ** 0.5) if p.dim() > 1 else nn.init.zeros_(p)
    return model
