"""A Trainer on two clusters in three dimensions, for tests of what a Trainer does."""

import torch
from torch import nn

from trainlab.training.metrics import accuracy
from trainlab.training.trainer import Every, Trainer, Watch


def batches_of(n=40, size=16, seed=0):
    """Two overlapping clusters; the last batch of an epoch is short."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = torch.randn(n, 3, generator=generator) + y[:, None]

    def batch(step):
        at = step % 3 * size
        return x[at : at + size], y[at : at + size]

    batch.per_epoch = 3
    return batch


def trainer_of(lr=0.1, steps=12, norm=False, optimizer=torch.optim.Adam, **kwargs):
    torch.manual_seed(0)
    layers = [nn.Linear(3, 8), nn.BatchNorm1d(8)] if norm else [nn.Linear(3, 8)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.Linear(8, 2))
    counted = {"metrics": [accuracy(name="accuracy", direction="up")]}
    kwargs = {"validation": batches_of(seed=1)} | counted | kwargs
    return Trainer(
        model,
        nn.functional.cross_entropy,
        optimizer(model.parameters(), lr=lr),
        batches_of(),
        steps,
        **kwargs,
    )


def fit(trainer, **every):
    rows = []
    trainer.fit(Every(**every), Watch(rows=lambda step, values: rows.append((step, values))))
    return rows
