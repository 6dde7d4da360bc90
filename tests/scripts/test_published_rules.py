"""The re-implemented rules of other tools: what they report, and that they change nothing."""

import sys
from pathlib import Path

import pytest
import torch
from benches import bench_of

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))
import published_rules as rules
import published_tools as tools
from published_symptoms import RIGHT


def trained(*overrides, spoil=None, watched=True, steps=150):
    """The names found, and the weights at the end."""
    trainer = bench_of("seed=0", *overrides).fresh()
    trainer.change(steps=steps)
    if spoil:
        spoil(trainer)
    published = rules.Published()
    torch.manual_seed(3)  # dropout
    if watched:
        published.before(trainer)
    trainer.set_train_mode(trainer.model)
    while trainer.step_count < trainer.steps:
        trainer.step(*trainer.batches(trainer.step_count))
        if watched:
            published.watch(trainer)
    found = published.names(trainer) if watched else {}
    if watched:
        assert published.names(trainer) == found  # asking twice finds nothing new
    return found, trainer.model.state_dict()


def lr_times(factor):
    def spoil(trainer):
        trainer.change(lrs=[lr * factor for lr in trainer.lrs])

    return spoil


@torch.no_grad()
def zeros(trainer):
    for p in trainer.model.parameters():
        p.zero_()


@torch.no_grad()
def dead(trainer):
    for name, p in trainer.model.named_parameters():
        if name.endswith("bias") and p.numel() > 10:
            p.fill_(-100.0)


def summed(trainer):
    criterion = trainer.criterion
    trainer.change(criterion=lambda logits, y: y.shape[-1] * criterion(logits, y))


def negated(trainer):
    criterion = trainer.criterion
    lrs = [1e-4 * lr for lr in trainer.lrs]  # so that it stays finite
    trainer.change(criterion=lambda logits, y: -criterion(logits, y), lrs=lrs)


@pytest.mark.parametrize("overrides", [(), ("model=cnn", "norm=batch", "model.dropout=0.3")])
def test_weights_buffers_and_dropout_are_bit_identical(overrides):
    _, plain = trained(*overrides, watched=False, steps=60)
    _, watched = trained(*overrides, steps=60)
    assert all(torch.equal(plain[name], watched[name]) for name in plain)


def test_a_healthy_run_is_mostly_left_alone():
    found, _ = trained()
    assert found["autotrainer"] == [] and found["deepdiagnosis"] == []
    assert "poor_init" not in found["thedeepchecker"]


CASES = [
    (zeros, "autotrainer", "dying"),  # all gradients but one bias's are exactly 0
    (zeros, "deepdiagnosis", "numerical"),  # a mean that is exactly 0
    (zeros, "thedeepchecker", "poor_init"),
    (dead, "autotrainer", "dying"),
    (dead, "thedeepchecker", "act_dead"),
    (summed, "thedeepchecker", "poor_reduction_loss"),
    (summed, "thedeepchecker", "poor_init_loss"),
    (negated, "autotrainer", "abnormal_loss"),
    (lr_times(1e-6), "autotrainer", "slow"),
    (lr_times(1e-6), "thedeepchecker", "w_slow"),
    (lr_times(1e-6), "thedeepchecker", "stagnated_loss"),
    (lr_times(0.0), "thedeepchecker", "w_untrained"),
    (lr_times(0.0), "deepdiagnosis", "unchanged"),
    (lr_times(float("nan")), "thedeepchecker", "w_nan"),
    (lr_times(float("nan")), "deepdiagnosis", "numerical"),
    (lr_times(float("nan")), "autotrainer", "explode"),
]


@pytest.mark.parametrize(("spoil", "tool", "symptom"), CASES)
def test_what_each_tool_says(spoil, tool, symptom):
    found, _ = trained(spoil=spoil)
    assert symptom in found[tool], found


def test_a_short_run_has_six_epochs():
    found, _ = trained(spoil=zeros, steps=12)
    assert found["autotrainer"] == ["dying"]


@pytest.mark.parametrize(
    ("accuracy", "count"),
    [([0.5, 0.9, 0.5, 0.9, 0.5], 1), ([0.5, 0.6, 0.7, 0.8], 0), ([0.5, 0.51, 0.49, 0.5], 0)],
)
def test_swings(accuracy, count):
    assert tools._swings(accuracy) == count


def test_f_test():
    assert not tools._differs(1.0, 2.7) and tools._differs(1.0, 2.71) and tools._differs(2.71, 1.0)
    assert tools._differs(0.0, 1.0) and tools._differs(float("nan"), 1.0)


def test_meanings_are_names_of_faults():
    assert set(RIGHT) == {"autotrainer", "deepdiagnosis", "thedeepchecker"}
    rooms = {"data", "init", "grad", "act", "arch", "reg", "norm", "loss", "graph", "metric"}
    rooms |= {"optim", "loop", "sched", "fit"}
    for means in RIGHT.values():
        for names in means.values():
            assert names and {name.partition(".")[0] for name in names} <= rooms
            assert all(name.count(".") == 1 for name in names)


def test_only_known_symptoms_are_told():
    with pytest.raises(KeyError, match="no such symptom"):
        tools.AutoTrainer().tell("gremlins")
