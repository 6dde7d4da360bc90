"""What a recipe adds to the plain step, through the command line's own words."""

import pytest
import torch
from benches import bench_of
from torch import nn

from trainlab.__main__ import main
from trainlab.errors import ConfigError
from trainlab.training import randomness
from trainlab.training.trainer import Every, Watch

SMALL = ["model.widths=[12,8]", "max_steps=40", "schedule=constant", "optim.lr=0.02"]


def trained(*words: str, every: int = 10):
    """The Trainer after its run, and the rows it gave."""
    trainer = bench_of(*SMALL, *words).fresh()
    randomness.seed_everything(0, "dropout")
    rows = {}
    watch = Watch(
        rows=lambda step, values: rows.setdefault(step, values | trainer.extra_metrics(trainer))
    )
    trainer.fit(Every(log=10, evaluate=every), watch)
    return trainer, rows


def weights(trainer):
    return [p.detach().clone() for p in trainer.model.parameters()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    "words",
    [
        ["average.ema=0.9"],
        ["average.swa=0.5"],
        ["evaluate.statistics=full_pass"],
        ["average.ema=0.9", "evaluate.statistics=full_pass"],
        ["early_stop.patience=1000"],
        ["log.smooth=0"],
    ],
    ids=",".join,
)
def test_what_is_evaluated_changes_no_bit_of_what_is_trained(words):
    plain, _ = trained("norm=batch", "model.dropout=0.2")
    other, _ = trained("norm=batch", "model.dropout=0.2", *words)
    assert same(plain.model.state_dict().values(), other.model.state_dict().values())


def test_the_best_weights_are_the_averaged_ones():
    trainer, _ = trained("average.ema=0.8", every=40)
    single = bench_of(*SMALL).fresh()
    average, names = {}, list(single.model.state_dict())
    for step in range(40):
        single.step(*single.batches(step))
        now = {k: t.double() for k, t in single.model.state_dict().items()}
        for name in names:
            average[name] = 0.8 * average.get(name, 0) + 0.2 * now[name]
    for name in names:
        expected = average[name] / (1 - 0.8**40)
        torch.testing.assert_close(trainer.best[name].double(), expected, rtol=1e-5, atol=1e-6)
        assert not torch.equal(trainer.best[name], trainer.model.state_dict()[name])


def test_swa_is_the_mean_from_its_beginning_with_batch_norm_made_anew():
    trainer, _ = trained("average.swa=0.5", "norm=batch", every=40)
    single = bench_of(*SMALL, "norm=batch").fresh()
    bench, seen = bench_of(*SMALL, "norm=batch"), []
    for step in range(40):
        single.step(*single.batches(step))
        if step >= 20:
            seen.append([p.detach().double() for p in single.model.parameters()])
    means = [torch.stack(each).mean(0) for each in zip(*seen, strict=True)]
    params = [trainer.best[name].double() for name, _ in single.model.named_parameters()]
    for mine, expected in zip(params, means, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-6)
    x = torch.cat(list(bench.in_order(bench.splits.train).inputs()))
    first = single.model[1].layer
    z = x.flatten(1).double() @ trainer.best["hidden1.layer.weight"].double().T
    assert first.bias is None
    torch.testing.assert_close(
        trainer.best["hidden1.norm.running_mean"].double(), z.mean(0), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "muon", "lbfgs"])
@pytest.mark.parametrize("limit", ["max_norm=0.7", "unit_norm=true"])
def test_a_constraint_holds_after_every_step(optimizer, limit):
    trainer = bench_of(*SMALL, f"optim={optimizer}", "max_steps=8", f"constraint.{limit}").fresh()
    for step in range(8):
        trainer.step(*trainer.batches(step))
        for layer in trainer.model.modules():
            if isinstance(layer, nn.Linear):
                norms = layer.weight.detach().norm(dim=1)
                assert norms.max() <= (0.7 if "max" in limit else 1.0) + 1e-5
                assert norms.min() >= (0.0 if "max" in limit else 1.0) - 1e-5


@pytest.mark.parametrize("limit", ["norm=0.1", "value=0.001", "adaptive=0.001"])
def test_gradients_are_bounded_and_the_share_is_logged(limit):
    trainer, rows = trained(f"clip.{limit}")
    assert 0 < float(rows[10]["optim/clipped"]) <= 1
    grads = [p.grad for p in trainer.params]
    name, value = limit.split("=")
    if name == "norm":
        assert torch.stack([g.norm() for g in grads]).norm() <= float(value) * 1.0001
    elif name == "value":
        assert max(g.abs().max() for g in grads) <= float(value)
    else:
        for own in trainer.model.head.parameters():
            assert own.grad.norm() > 0.0011 * own.norm(), "the head is left out"
    loose, rows = trained("clip.norm=1e6")
    plain, _ = trained()
    assert same(weights(loose), weights(plain))
    assert float(rows[10]["optim/clipped"]) == 0


def test_a_constraint_holds_for_the_averaged_weights_too():
    trainer, _ = trained("constraint.unit_norm=true", "average.ema=0.9", every=40)
    norms = trainer.best["hidden1.layer.weight"].norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_swa_from_the_beginning_is_no_other_word_for_none():
    trainer, _ = trained("average.swa=0", every=40)
    assert not torch.equal(trainer.best["head.weight"], trainer.model.head.weight)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["constraint.max_norm=1", "norm=weight"], "use another norm"),
        (["channels_last=true", "optim=lbfgs"], "cannot take it; use another optim"),
        (["norm=batch", "accumulate=32"], "batch norm needs two"),
        (["data.train_size=5"], "data.train_size = 5: leaves a class without samples; use 40"),
    ],
    ids=str,
)
def test_what_means_nothing_together_is_refused(words, text):
    with pytest.raises(ConfigError, match=text):
        bench_of(*words).fresh()


@pytest.mark.parametrize(
    "words",
    [
        ["clip.norm=1", "clip.value=1"],
        ["constraint.max_norm=1", "constraint.unit_norm=true"],
        ["average.ema=0.9", "average.swa=0.5"],
    ],
    ids=",".join,
)
def test_two_of_a_kind_are_refused(words):
    with pytest.raises(ConfigError, match="one at a time; drop"):
        bench_of(*words).fresh()


def test_penalty_l2_equals_sgds_weight_decay():
    words = ["optim=momentum", "norm=batch"]
    (penalised, rows), (decayed, _) = (
        trained(*words, "penalty.l2=0.1"), trained(*words, "optim.weight_decay=0.1"),
    )  # fmt: skip
    plain, _ = trained(*words)
    for mine, theirs in zip(weights(penalised), weights(decayed), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert not same(weights(plain), weights(decayed))
    assert float(rows[40]["penalty/l2"]) > 0
    assert "penalty/l1" not in rows[40]


def test_both_penalties_are_reported_apart():
    _, rows = trained("penalty.l1=0.01", "penalty.l2=0.1")
    assert float(rows[40]["penalty/l1"]) > 0
    assert float(rows[40]["penalty/l2"]) > 0


def test_what_is_frozen_stays_with_its_statistics():
    words = ["norm=batch", "groups.freeze=[hidden1*]"]
    before = bench_of(*SMALL, *words).fresh().model.state_dict()
    trainer, _ = trained(*words)
    for name, now in trainer.model.state_dict().items():
        assert torch.equal(now, before[name]) == name.startswith("hidden1"), name


def test_factors_reach_the_steps():
    slow, _ = trained("groups.lr=[head*:0]", "optim=sgd")
    start = bench_of(*SMALL).fresh()
    assert torch.equal(slow.model.head.weight, start.model.head.weight)
    assert not torch.equal(slow.model.hidden1.layer.weight, start.model.hidden1.layer.weight)


def test_the_whole_set_as_one_batch_and_one_image_at_a_time():
    whole = bench_of(*SMALL, "batch_size=full").fresh()
    assert whole.batches.per_epoch == 1
    assert len(whole.batches(0)[1]) == 1257
    assert bench_of(*SMALL, "batch_size=1").fresh().batches.per_epoch == 1257
    with pytest.raises(ConfigError, match="batch norm needs two"):
        bench_of(*SMALL, "batch_size=1", "norm=batch").fresh()


def test_a_plateau_lowers_lr_when_validation_stands_still():
    words = ["schedule=plateau", "schedule.patience=1", "schedule.factor=0.5"]
    trainer, rows = trained(*words, "optim=sgd", "optim.lr=1e-9", every=5)
    assert float(rows[10]["optim/lr"]) == 1e-9
    assert float(rows[40]["optim/lr"]) < 1e-9 / 4


@pytest.mark.parametrize("words", [["norm=batch", "batch_size=1"], ["norm=instance"]], ids=str)
def test_a_norm_with_nothing_to_average_over_is_one_line(tmp_path, capsys, words):
    where = [f"hydra.run.dir={tmp_path}/run", "quiet=true", "max_steps=2", "preflight=none"]
    assert main(["model=resnet18", "probe=none", *words, *where]) == 2
    err = capsys.readouterr().err
    assert "nothing to average over; use norm=group" in err
    assert err.count("\n") == 1
