"""A stack of R runs equals R separate runs, through the same Trainer."""

from functools import partial

import pytest
import torch
from torch import nn

from trainlab import checkpoint, restore
from trainlab import stack as stacks
from trainlab.data.batches import Batches, shuffled
from trainlab.data.preprocess import standardize
from trainlab.data.splits import Split
from trainlab.errors import ConfigError
from trainlab.nn import norm
from trainlab.nn.mlp import mlp
from trainlab.optim import clip, penalty
from trainlab.optim.schedule import warmup_cosine
from trainlab.train import Every, Trainer, Watch
from trainlab.world import number, seed_everything

SEEDS, LRS, STEPS = (3, 1, 4, 1), (0.1, 0.03, 0.01, 0.2), 100
ACTIVATIONS = nn.ReLU, nn.ELU, nn.Tanh, nn.Sigmoid, nn.Identity, nn.PReLU
OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, weight_decay=1e-3),
    "momentum": partial(torch.optim.SGD, momentum=0.9),
    "adam": partial(torch.optim.Adam, weight_decay=1e-4),
}


def some_data() -> Split:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 4, (90,), generator=generator)
    x = torch.randint(0, 17, (90, 1, 4, 4), generator=generator) * (1 + y.view(-1, 1, 1, 1)) // 5
    return Split(x.to(torch.uint8), y)


def model_of(seed: int, activation=nn.ELU) -> nn.Module:
    torch.manual_seed(number(seed, "init"))
    return mlp((1, 4, 4), 4, activation, norm.batch, widths=[12, 8], dropout=0.3).double()


def trainer_of(model, optimizer, order, lift, preprocess, split) -> Trainer:
    in_order = Batches(split, preprocess, 32, lambda epoch: order(0).sort().values, torch.float64)
    return Trainer(
        model, lift(nn.functional.cross_entropy), optimizer,
        Batches(split, preprocess, 32, order, torch.float64), STEPS,
        schedule=warmup_cosine, penalty=lift(partial(penalty.elastic, l2=1e-3)),
        clip=lift(partial(clip.by_norm, norm=0.5)), validation=in_order,
    )  # fmt: skip


def rows_of(trainer: Trainer) -> list:
    rows = []
    trainer.fit(
        Every(log=25, evaluate=25), Watch(rows=lambda step, values: rows.append((step, values)))
    )
    return rows


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    "activation", [nn.ReLU, nn.ELU, nn.Tanh, nn.Sigmoid, nn.Identity, nn.PReLU]
)
def test_a_stack_equals_separate_runs_in_float64(name, activation):
    split = some_data()
    preprocess = standardize(split.x, 16)
    model = stacks.stack([model_of(seed, activation) for seed in SEEDS], SEEDS)
    optimizer = stacks.Optimizer(
        model.parameters(), OPTIMIZERS[name], torch.tensor(LRS, dtype=torch.float64)
    )

    def orders(epoch):
        return torch.stack([shuffled(len(split), seed, epoch) for seed in SEEDS])

    together = trainer_of(model, optimizer, orders, stacks.lift, preprocess, split)
    rows = rows_of(together)
    for run, (seed, lr) in enumerate(zip(SEEDS, LRS, strict=True)):
        alone = model_of(seed, activation)
        seed_everything(seed, "dropout")
        trainer = trainer_of(
            alone, OPTIMIZERS[name](alone.parameters(), lr=lr), partial(shuffled, len(split), seed),
            lambda function: function, preprocess, split,
        )  # fmt: skip
        for (step, values), (_, both) in zip(rows_of(trainer), rows, strict=True):
            for tag, value in values.items():
                mine = both[tag][run]
                torch.testing.assert_close(
                    mine, value, rtol=0, atol=1e-9, msg=f"run {run}, step {step}: {tag}"
                )
        for stacked, single in (
            (model.state_dict(), alone.state_dict()),
            (together.best, trainer.best),
        ):
            assert single.keys() <= stacked.keys()
            for tag, value in single.items():
                mine = stacked[tag][run]
                torch.testing.assert_close(mine, value, rtol=0, atol=1e-9, msg=f"run {run}: {tag}")
        assert together.best_step[run] == trainer.best_step


class Odd(nn.Sequential):
    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ([nn.Sequential(nn.RReLU()), nn.Sequential(nn.RReLU())], "RReLU does not stack: it draws"),
        (
            [Odd(nn.Linear(2, 2), nn.Dropout()), Odd(nn.Linear(2, 2), nn.Dropout())],
            "Dropout does not",
        ),
        ([nn.ELU(1.0), nn.ELU(2.0)], "runs of a stack differ"),
        ([nn.BatchNorm1d(3, affine=False)] * 2, "BatchNorm1d does not stack"),
        ([Odd(nn.BatchNorm2d(3))] * 2, "Odd does not stack|BatchNorm2d does not stack"),
    ],
)
def test_what_does_not_stack_is_refused_by_name(models, words):
    with pytest.raises(ConfigError, match=words):
        stacks.stack(models, (0, 1))


MAPPED = {
    "conv": lambda: nn.Conv2d(2, 3, 3, padding=1),
    "group norm": lambda: nn.GroupNorm(2, 2),
    "a module of one's own": lambda: Odd(nn.Conv2d(2, 2, 1), nn.PReLU()),
    "maximum": lambda: nn.MaxPool2d(2),
}


@pytest.mark.parametrize("name", MAPPED)
def test_what_has_no_stacked_form_is_mapped_over_the_runs(name):
    torch.manual_seed(0)
    models = [MAPPED[name]().double() for _ in range(3)]
    for model in models:
        for p in model.parameters():
            nn.init.normal_(p)
    stacked = stacks.stack(models, (0, 1, 2))
    x = torch.randn(3, 5, 2, 4, 4, dtype=torch.float64)
    out = stacked(x)
    for run, model in enumerate(models):
        torch.testing.assert_close(out[run], model(x[run]), rtol=0, atol=1e-12)
    assert len(list(stacked.parameters())) == len(list(models[0].parameters()))
    if models[0].state_dict():
        out.sum().backward()
        assert all(p.grad is not None and p.grad.shape[0] == 3 for p in stacked.parameters())


@pytest.mark.parametrize("kind", [torch.optim.LBFGS, torch.optim.Rprop])
def test_an_optimizer_whose_step_is_not_its_own_by_number_is_refused(kind):
    with pytest.raises(ConfigError, match=f"{kind.__name__} does not stack"):
        stacks.Optimizer([nn.Parameter(torch.ones(2, 3))], kind, torch.tensor([0.1, 0.2]))


def test_a_stack_goes_on_from_its_checkpoint_bit_for_bit():
    split = some_data()
    preprocess = standardize(split.x, 16)

    def orders(epoch):
        return torch.stack([shuffled(len(split), seed, epoch) for seed in SEEDS])

    def fresh():
        model = stacks.stack([model_of(seed) for seed in SEEDS], SEEDS)
        lrs = torch.tensor(LRS, dtype=torch.float64)
        optimizer = stacks.Optimizer(model.parameters(), OPTIMIZERS["adam"], lrs)
        return trainer_of(model, optimizer, orders, stacks.lift, preprocess, split)

    whole, half, again = fresh(), fresh(), fresh()
    rows_of(whole)
    for _ in range(37):
        half.step(*half.batches(half.at))
    tensors, numbers = checkpoint.state_of(half)
    restore.restore(again, {k: t.clone() for k, t in tensors.items()}, half.best, numbers)
    rows_of(again)
    for mine, theirs in zip(again.params, whole.params, strict=True):
        assert torch.equal(mine, theirs)
