"""What a recipe may ask of the Trainer beside the plain step."""

import json

import pytest
import torch
from small_trainers import batches_of, fit, trainer_of
from torch import nn

from trainlab.errors import ConfigError
from trainlab.experiment import regularisation
from trainlab.storage import checkpoint, restore
from trainlab.training import randomness
from trainlab.training.metrics import n_correct
from trainlab.training.trainer import Extras


@pytest.mark.parametrize("parts", [2, 3, 50])
def test_accumulated_parts_have_the_gradient_of_the_whole_batch(parts):
    trainers = [trainer_of(steps=4, accumulate=n, validation=None) for n in (1, parts)]
    for trainer in trainers:
        trainer.model.double()
        whole = trainer.batches
        trainer.change(
            penalty=lambda params: sum(p.square().sum() for p in params),
            batches=lambda step, whole=whole: (whole(step)[0].double(), whole(step)[1]),
        )
    rows = [fit(trainer, log=1) for trainer in trainers]
    for one, many in zip(*(t.model.parameters() for t in trainers), strict=True):
        assert torch.allclose(one, many, rtol=1e-10, atol=1e-14)
    for (_, one), (_, many) in zip(*rows, strict=True):
        assert float(one["train/loss"]) == pytest.approx(float(many["train/loss"]), rel=1e-12)
        assert one["train/accuracy"] == many["train/accuracy"]


def test_shares_of_classes_train_like_the_class_numbers_they_stand_for():
    numbers, shares = (trainer_of(steps=6, validation=None) for _ in range(2))
    own = shares.batches

    def one_hot(step):
        x, y = own(step)
        return x, nn.functional.one_hot(y, 2).float()

    shares.batches = one_hot
    (_, row), (_, expected) = fit(shares)[-1], fit(numbers)[-1]
    assert row["train/accuracy"] == expected["train/accuracy"]
    assert float(row["train/loss"]) == pytest.approx(float(expected["train/loss"]), rel=1e-5)


def test_hits_counts_by_run_too():
    logits = torch.tensor([[[0.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])  # (R, B, K)
    assert n_correct(logits, torch.tensor([[1, 1], [1, 1]])).tolist() == [1, 2]


def test_the_smoothed_loss_is_the_bias_corrected_average_of_every_step():
    trainer = trainer_of(steps=11, smooth=0.9, validation=None)
    losses, step = [], trainer.step
    trainer.step = lambda x, y: losses.append(float(step(x, y).detach()))
    rows = fit(trainer, log=4)
    average, expected = 0.0, {}
    for at, loss in enumerate(losses, 1):
        average = 0.9 * average + 0.1 * loss
        expected[at] = average / (1 - 0.9**at)
    assert [at for at, _ in rows] == [4, 8, 11]
    for at, row in rows:
        assert float(row["train/loss_smooth"]) == pytest.approx(expected[at], rel=1e-6)


def test_patience_ends_the_training_after_so_many_evaluations_without_a_better_one():
    trainer = trainer_of(steps=100, patience=3)
    seen = iter([0.9, 0.8, 0.85, 0.7, 0.71, 0.72, 0.73, 0.1])
    trainer.evaluate = lambda batches: dict.fromkeys(
        ("loss", "accuracy"), torch.tensor(next(seen), dtype=torch.float64)
    )
    rows = fit(trainer, log=50, evaluate=2)
    assert trainer.step_count == 14
    assert trainer.best_at() == 8
    assert "train/loss" in rows[-1][1], "the last row is written, although no interval ended"
    assert not fit(trainer), "a run that has ended goes on no further"


def clip(grads, params):
    return [g / 2 for g in grads], torch.tensor(0.25)


class Average:
    """The sum of the first weights seen, to be told apart from nothing."""

    def __init__(self):
        self.total = torch.zeros(8, 3)

    def update(self, trainer):
        self.total += trainer.params[0].detach()

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state):
        self.total = state["total"]


OPTIONS = {"smooth": 0.9, "patience": 2, "accumulate": 2}


def test_every_option_goes_on_from_its_checkpoint_bit_for_bit():
    def new():
        extras = Extras(clip=clip, average=Average(), scaler=torch.amp.GradScaler("cpu"))
        return trainer_of(steps=20, **OPTIONS, monitor="val/loss", extras=extras)

    whole = new()
    rows = fit(whole, log=6, evaluate=4)
    half = new()
    half.patience, half.steps = None, 8
    fit(half, log=6, evaluate=4)
    half.steps = 20
    tensors, numbers = checkpoint.state_of(half)
    tensors = {name: t.clone() for name, t in tensors.items()}
    again = new()
    restore.restore(again, tensors, half.best, json.loads(json.dumps(numbers)))
    later = fit(again, log=6, evaluate=4)
    assert later[-1][0] == whole.step_count
    assert torch.equal(again.average.total, whole.average.total)
    for mine, theirs in zip(again.params, whole.params, strict=True):
        assert torch.equal(mine, theirs)
    assert {k: float(v) for k, v in later[-1][1].items()} == {
        k: float(v) for k, v in rows[-1][1].items()
    }
    assert float(rows[-1][1]["optim/clipped"]) == 0.25
    for name in ("smoothed", "average.total"):
        short = {key: t for key, t in tensors.items() if key != name}
        with pytest.raises(KeyError):
            restore.restore(new(), short, half.best, numbers)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_every_precision_learns_and_keeps_float32_weights_and_losses(precision):
    randomness.join("cpu", 1, precision)
    products = "tf32" if precision == "tf32" else "ieee"
    assert torch.backends.cudnn.conv.fp32_precision == products
    assert torch.backends.mkldnn.matmul.fp32_precision == products
    scaler = torch.amp.GradScaler("cpu") if precision == "fp16" else None
    trainer = trainer_of(steps=60, lr=0.05, validation=batches_of(), extras=Extras(scaler=scaler))
    trainer.change(forward=regularisation.forward(trainer.model, precision, False, False))
    first, *_, last = [row for _, row in fit(trainer, log=5)]
    randomness.join("cpu", 1)
    assert trainer.params[0].dtype == torch.float32
    assert trainer.forward(batches_of()(0)[0]).dtype == torch.float32
    assert float(last["train/loss"]) < float(first["train/loss"]) * 0.8


def test_fp16_and_lbfgs_are_refused_together():
    trainer = trainer_of(optimizer=torch.optim.LBFGS)
    with pytest.raises(ConfigError, match="use precision=bf16"):
        regularisation.scaler(torch.device("cpu"), trainer.optimizer)


def test_channels_last_changes_the_layout_and_not_the_result():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)
    ).double()
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    expected = model(x)
    out = regularisation.forward(model, "fp32", False, True)(x)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(out, expected, rtol=1e-10)
