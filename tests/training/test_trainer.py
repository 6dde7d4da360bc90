"""The Trainer: what it records, remembers and refuses."""

import contextlib
import json

import pytest
import torch
from small_trainers import batches_of, fit, trainer_of
from torch import nn

from trainlab.errors import CheckpointError, NonFiniteError
from trainlab.storage import checkpoint, restore
from trainlab.training.trainer import Every, Extras, FollowsHistory, Watch, due, evaluating


def test_the_same_as_a_hand_written_loop():
    trainer = trainer_of(steps=9)
    fit(trainer)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    batches = batches_of()
    for step in range(9):
        x, y = batches(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    for mine, theirs in zip(trainer.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_probes_look_densely_at_the_start_then_every_nth_step():
    steps = [step + 1 for step in range(350) if due(step, 100, early=True)]
    assert steps == [1, 2, 4, 8, 16, 32, 64, 101, 201, 301]
    assert [step for step in range(9) if due(step, 1, early=True)] == list(range(9))
    assert [step + 1 for step in range(9) if due(step, 4, early=True)] == [1, 2, 4, 5, 9]
    assert not any(due(step, 0, early=True) for step in range(9))
    assert [step for step in range(9) if due(step, 4)] == [0, 4, 8]
    seen = []

    @contextlib.contextmanager
    def probe(trainer, x, y):
        seen.append(trainer.step_count + 1)
        yield

    trainer_of(steps=12).fit(Every(probe=5), Watch(probe=probe))
    assert seen == [1, 2, 4, 6, 11]


def test_an_interval_is_weighted_by_batch_size():
    trainer = trainer_of(lr=0.0, steps=3)
    (row,) = fit(trainer, log=3)
    expected = trainer.evaluate(batches_of())
    assert float(row[1]["train/loss"]) == pytest.approx(float(expected["loss"]), rel=1e-6)
    assert float(row[1]["train/accuracy"]) == pytest.approx(float(expected["accuracy"]))


def test_the_best_weights_are_those_of_the_best_validation():
    trainer = trainer_of(lr=0.5, steps=30)
    seen = {}

    def rows(step, values):
        seen[step] = (
            float(values["val/loss"]),
            {k: t.clone() for k, t in trainer.model.state_dict().items()},
        )

    trainer.fit(Every(log=0, evaluate=3), Watch(rows=rows))
    best = min(seen, key=lambda step: seen[step][0])
    assert trainer.best_at() == best
    assert best < 30, "choose a task where the last step is not the best"
    for name, tensor in trainer.best.items():
        assert torch.equal(tensor, seen[best][1][name])


def test_of_evaluations_alike_the_first_is_the_best():
    """So that patience counts from it."""
    trainer = trainer_of(lr=0.0, steps=30, patience=2)
    fit(trainer, evaluate=3)
    assert (trainer.best_at(), trainer.step_count) == (3, 9)


def test_a_parameter_without_gradient_is_not_clipped():
    trainer, seen = trainer_of(steps=2), []

    def clip(grads, params):
        seen.append(
            [name for name, p in trainer.model.named_parameters() for q in params if p is q]
        )
        assert len(grads) == len(params)
        return [g / 2 for g in grads], torch.ones(())

    trainer.change(
        clip=clip, forward=lambda x: trainer.model[2](trainer.model[0](x).detach().relu())
    )
    before = trainer.model[0].weight.clone()
    fit(trainer)
    assert seen == [["2.weight", "2.bias"]] * 2
    assert torch.equal(trainer.model[0].weight, before)


def test_monitor_accuracy_is_maximised():
    trainer = trainer_of(steps=30, monitor="val/accuracy")
    values = [float(v["val/accuracy"]) for _, v in fit(trainer, log=0, evaluate=3)]
    assert -float(trainer.best_value) == max(values)


def test_a_loss_that_is_not_finite_ends_the_training_and_names_the_step():
    trainer = trainer_of(steps=20)
    good = trainer.batches

    def batches(step):
        x, y = good(step)
        return (x * float("nan"), y) if step == 6 else (x, y)

    trainer.change(batches=batches)
    with pytest.raises(
        NonFiniteError, match=r"loss = nan at step 7 of 20, with lr 0.1: .*optim.lr=0.01"
    ) as raised:
        fit(trainer, log=5)
    assert raised.value.step == 7


def test_what_becomes_of_a_loss_that_is_not_finite_can_be_handed_in():
    seen = []
    extras = Extras(not_finite=lambda trainer, *told: seen.append(told[:2]))
    trainer = trainer_of(steps=4, extras=extras)
    trainer.change(batches=lambda step: (batches_of()(0)[0] * float("nan"), batches_of()(0)[1]))
    fit(trainer, log=2, evaluate=4)
    assert seen == [(1, "loss"), (3, "loss"), (4, "val/loss"), (3, "loss")][: len(seen)]
    assert (4, "val/loss") in seen and trainer.step_count == 4


def test_a_schedule_that_follows_the_history_sees_that_of_its_trainer():
    def halves(step, steps, history):
        return 0.5 ** len(history)

    trainer = trainer_of(steps=6, lr=0.4, schedule=FollowsHistory(halves))
    rows = dict(fit(trainer, log=1, evaluate=2))
    assert [float(row["optim/lr"]) for row in rows.values()] == [0.4, 0.4, 0.2, 0.2, 0.1, 0.1]


def test_only_what_is_written_down_is_changed_in_a_trainer():
    trainer = trainer_of()
    trainer.change(lrs=[0.5], clip=None)
    assert trainer.lrs == [0.5]
    with pytest.raises(TypeError, match="model, step_count: cannot be changed"):
        trainer.change(model=None, step_count=3)


def test_weights_that_are_not_finite_are_never_saved():
    trainer = trainer_of()
    fit(trainer)
    with torch.no_grad():
        next(iter(trainer.params)).view(-1)[0] = float("inf")
    with pytest.raises(NonFiniteError):
        checkpoint.state_of(trainer)


def test_no_transfer_in_the_hot_loop(monkeypatch):
    """Nothing between two rows brings a value to the host."""
    trainer = trainer_of(steps=10, validation=None, optimizer=torch.optim.SGD)
    waits = []
    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__"):
        real = getattr(torch.Tensor, name)

        def wait(self, *args, _real=real, _name=name, **kwargs):
            waits.append((trainer.step_count, _name))
            return _real(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, wait)
    fit(trainer, log=10)
    assert {at for at, _ in waits} == {10}


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.LBFGS])
def test_state_and_restore_are_inverse_in_the_middle_of_an_interval(optimizer):
    whole = trainer_of(steps=20, norm=True, optimizer=optimizer)
    rows = fit(whole, log=6, evaluate=4)
    half = trainer_of(steps=20, norm=True, optimizer=optimizer)

    class Enough(Exception):
        pass

    def after(trainer):
        if trainer.step_count == 8:
            raise Enough

    with pytest.raises(Enough):
        half.fit(Every(log=6, evaluate=4), Watch(after=after))
    tensors, numbers = checkpoint.state_of(half)
    tensors = {name: t.clone() for name, t in tensors.items()}
    numbers = json.loads(json.dumps(numbers))
    again = trainer_of(steps=20, norm=True, optimizer=optimizer)
    restore.restore(again, tensors, half.best, numbers)
    later = fit(again, log=6, evaluate=4)
    assert [step for step, _ in later] == [12, 16, 18, 20]
    assert later == rows[-4:]
    for mine, theirs in zip(
        again.model.state_dict().values(), whole.model.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(again.best.values(), whole.best.values(), strict=True):
        assert torch.equal(mine, theirs)


def test_restore_refuses_another_architecture():
    tensors, numbers = checkpoint.state_of(trainer_of(norm=True))
    with pytest.raises(CheckpointError, match="the model has"):
        restore.restore(trainer_of(), tensors, {}, numbers)


def test_evaluation_leaves_every_modules_own_mode():
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2))
    model.train()
    model[1].eval()  # frozen on purpose
    with evaluating(model):
        assert not model[0].training
    assert model[0].training
    assert not model[1].training


def test_the_closure_serves_lbfgs():
    trainer = trainer_of(steps=5, lr=1.0, optimizer=torch.optim.LBFGS)
    trainer.change(batches=lambda step: batches_of()(0))  # always the same batch
    first, *_, last = [float(v["train/loss"]) for _, v in fit(trainer, log=1)]
    assert first == pytest.approx(
        0.75, abs=0.2
    )  # before the first update, though it evaluates many times
    assert last < 0.01


def test_a_validation_loss_that_is_not_finite_ends_the_training():
    trainer = trainer_of(steps=4)
    good = trainer.validation

    def batches(step):
        x, y = good(step)
        return x * float("nan"), y

    batches.per_epoch = 3
    trainer.change(validation=batches)
    with pytest.raises(NonFiniteError, match="val/loss = nan at step 2 of 4"):
        fit(trainer, log=0, evaluate=2)
