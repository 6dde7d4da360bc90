"""What happens to one run of a stack changes no bit of another."""

import pytest
import torch
from benches import bench_of
from stacking import close, rows_of, single, typed

from trainlab.stack import Stack
from trainlab.storage import checkpoint, restore
from trainlab.training.randomness import stream
from trainlab.training.trainer import Every, Watch

KINDS = {
    "mlp, momentum": ["norm=batch", "model.dropout=0.2"],
    "tanh, adam, odd widths": [
        "activation=tanh",
        "optim=adam",
        "model.widths=[13,7]",
        "loss=focal",
    ],
    "clip and penalty": ["activation=gelu", "clip.norm=0.3", "penalty.l2=0.01", "norm=layer"],
    "cnn, rmsprop": ["model=cnn", "model.channels=[3,5]", "optim=rmsprop", "activation=elu"],
    "maxout, radam": ["activation=maxout", "optim=radam", "schedule=one_cycle"],
}
FEW = "max_steps=12", "epochs=100", "batch_size=23"
EVERY = Every(log=4, evaluate=6)


def group_of(bench, runs: int, dtype=torch.float32) -> Stack:
    owns = [{"seed": seed, "optim.lr": 0.01 * (1 + seed % 3)} for seed in range(runs)]
    return Stack([single(bench, own, dtype) for own in owns], range(runs))


def walk(group: Stack, steps: int, before=lambda at: None) -> Stack:
    group.model.train()
    trainer = group.trainer
    while trainer.step_count < steps:
        before(trainer.step_count)
        trainer.step(*trainer.batches(trainer.step_count))
        if trainer.step_count % EVERY.evaluate == 0:
            with trainer.eval_weights(trainer):
                trainer.validate()
    return group


def same_bits(group: Stack, other: Stack, run: int) -> None:
    mine = group.weights_of(run, group.model.state_dict())
    for name, value in other.weights_of(run, other.model.state_dict()).items():
        assert torch.equal(mine[name], value), f"run {run}: {name}"
    for p, q in zip(group.trainer.params, other.trainer.params, strict=True):
        ours = group.trainer.optimizer.of_run(group.place(run), p)
        for key, value in other.trainer.optimizer.of_run(other.place(run), q).items():
            assert torch.equal(torch.as_tensor(ours[key]), torch.as_tensor(value)), key


def cases(trials: int):
    names = list(KINDS)
    return [(names[i % len(names)], i, ("diverges", "stops")[i // len(names) % 2])
            for i in range(trials)]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "trial", "how"),
    [pytest.param(*case, marks=[pytest.mark.long] * (case[1] >= 10)) for case in cases(100)],
)
def test_one_run_that_diverges_or_stops_changes_no_bit_of_another(name, trial, how):
    bench = bench_of(*typed(*KINDS[name], *FEW))
    draw = torch.Generator().manual_seed(trial)
    runs = int(torch.randint(2, 9, (), generator=draw))
    bad = int(torch.randint(runs, (), generator=draw))
    at = int(torch.randint(1, 11, (), generator=draw))
    whole, group = walk(group_of(bench, runs), 12), group_of(bench, runs)
    kept = [run for run in range(runs) if run != bad]

    def befall(step: int) -> None:
        if step == at and how == "diverges":
            with torch.no_grad():
                group.trainer.params[0][bad][0] = (float("nan"), float("inf"))[trial % 2]
        elif step == at:
            group.compact(kept)

    walk(group, 12, befall)
    for run in kept:
        same_bits(group, whole, run)
    if how == "diverges":
        assert group.leaving() == [bad]
        assert group.diverged_at() == {bad: (at + 1, "loss = nan")}


@pytest.mark.parametrize("name", [*KINDS][:4])
def test_a_stack_that_shrinks_changes_no_bit_of_those_that_stay(name):
    bench = bench_of(*typed(*KINDS[name], *FEW, "data.train_size=60"))
    whole, group = walk(group_of(bench, 64), 6), group_of(bench, 64)
    draw = torch.Generator().manual_seed(0)
    kept = sorted(torch.randperm(64, generator=draw)[:20].tolist())
    walk(group, 6, lambda at: group.compact(kept) if at == 3 else None)
    columns = [run % 32 for run in kept]
    size = 32 * max(map(columns.count, columns))
    assert len(group.ids) == len(group.trainer.params[0]) == size
    for run in kept:
        same_bits(group, whole, run)


def test_a_stack_shrinks_to_half_and_without_exactness_to_what_is_left():
    bench = bench_of(*typed(*FEW, "norm=batch", "model.dropout=0.1", "log.smooth=0.5"))
    for exact, kept in ((True, [1, 35, 60]), (False, [1, 35, 60])):
        whole, group = walk(group_of(bench, 64), 7), group_of(bench, 64)

        def cut(at: int, group=group, kept=kept, exact=exact) -> None:
            if at == 6:
                group.compact(kept, exact)

        walk(group, 7, cut)
        assert len(group.trainer.params[0]) == (32 if exact else 3)
        assert len(group.trainer.record[0][0]) == (32 if exact else 3)
        for run in kept:
            mine = group.weights_of(run, group.model.state_dict())
            for name, value in whole.weights_of(run, whole.model.state_dict()).items():
                torch.testing.assert_close(mine[name], value, rtol=1e-4, atol=1e-5)


def test_a_run_that_diverges_keeps_the_weights_it_had_and_the_others_rows_go_on():
    bench = bench_of(*typed(*FEW, "optim=sgd"))
    owns = [{"seed": 0, "optim.lr": lr} for lr in (0.1, 1e30, 0.05)]
    group = Stack([single(bench, own, torch.float32) for own in owns], (0, 0, 0))
    rows = rows_of(group.trainer, EVERY)
    first = group.diverged_at()
    assert list(first) == [1]
    assert 2 <= first[1][0] <= 4
    early = walk(
        Stack([single(bench, own, torch.float32) for own in owns], (0, 0, 0)), first[1][0] - 1
    )
    for p, q in zip(group.trainer.params, early.trainer.params, strict=True):
        assert torch.equal(p[1], q[1])
    assert [step for step, _ in rows] == [4, 6, 8, 12]
    assert all(values["train/loss"][0].isfinite() for _, values in rows if "train/loss" in values)
    assert group.trainer.best_step.tolist()[1] == 0


@pytest.mark.parametrize("name", KINDS)
def test_a_run_taken_out_goes_on_alone(name):
    bench = bench_of(*typed(*KINDS[name], *FEW, "log.smooth=0.9", "average.ema=0.9"))
    whole, half = group_of(bench, 3, torch.float64), group_of(bench, 3, torch.float64)
    rows_of(whole.trainer, EVERY)
    walk(half, 7)
    alone = single(bench, {"seed": 1, "optim.lr": 0.02})
    random = half.take_out(1, alone)
    torch.set_rng_state(random.get_state())
    rows_of(alone, EVERY)
    for state, own in ((whole.model.state_dict(), alone.model.state_dict()),
                       (whole.trainer.best, alone.best)):  # fmt: skip
        mine = whole.weights_of(1, state)
        for name, value in own.items():
            close(mine[name], value, name)


def test_runs_that_have_begun_go_on_in_a_stack():
    bench = bench_of(*typed(*KINDS["tanh, adam, odd widths"], *FEW, "model.dropout=0.1"))
    half, whole = group_of(bench, 3, torch.float64), group_of(bench, 3, torch.float64)
    walk(whole, 12)
    walk(half, 5)
    owns = [{"seed": seed, "optim.lr": 0.01 * (1 + seed)} for seed in range(3)]
    singles = [single(bench, own) for own in owns]
    streams = [half.take_out(run, one) for run, one in enumerate(singles)]
    again = walk(Stack(singles[1:], streams[1:]), 12)
    for run in (1, 2):
        mine = again.weights_of(run - 1, again.model.state_dict())
        for name, value in whole.weights_of(run, whole.model.state_dict()).items():
            close(mine[name], value, name)


def test_a_run_that_stops_early_leaves_where_it_would_have_stopped_alone():
    bench = bench_of(
        *typed("max_steps=60", "epochs=100", "early_stop.patience=2", "optim=adam", "log.every=5")
    )
    owns = [{"seed": seed, "optim.lr": lr} for seed, lr in ((0, 0.3), (1, 0.003), (2, 0.1))]
    group = Stack([single(bench, own) for own in owns], (0, 1, 2))
    every, ended = Every(log=5, evaluate=5), {}

    def after(trainer) -> None:
        done = [run for run in group.ids if run is not None] if trainer.ended() else group.leaving()
        for run in done:
            ended[run] = trainer.step_count, int(trainer.best_step[group.place(run)])
        group.compact([run for run in group.ids if run is not None and run not in done])

    group.trainer.fit(every, Watch(after=after))
    for run, own in enumerate(owns):
        alone = single(bench, own)
        rows_of(alone, every)
        assert ended[run] == (alone.step_count, int(alone.best_step))
    assert len({at for at, _ in ended.values()}) > 1


@pytest.mark.parametrize("name", KINDS)
def test_a_stack_goes_on_from_its_checkpoint_bit_for_bit(name):
    bench = bench_of(*typed(*KINDS[name], *FEW))
    whole, half, again = (group_of(bench, 4) for _ in range(3))
    walk(whole, 12)
    walk(half, 7)
    tensors, numbers = checkpoint.state_of(half.trainer)
    best = {key: t.clone() for key, t in half.trainer.best.items()}
    restore.restore(again.trainer, {k: t.clone() for k, t in tensors.items()}, best, numbers)
    walk(again, 12)
    for run in range(4):
        same_bits(again, whole, run)


def test_the_dropout_stream_is_that_of_the_run_alone():
    bench = bench_of(*typed("model.dropout=0.5", *FEW))
    group = group_of(bench, 2)
    group.model.train()
    group.trainer.step(*group.trainer.batches(0))
    state = group.streams[1].get_state()
    assert not torch.equal(state, stream(1, "dropout").get_state())
    alone = single(bench, {"seed": 1}, torch.float32)
    alone.model.train()
    alone.step(*alone.batches(0))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_run_whose_validation_loss_is_not_finite_has_diverged():
    group = group_of(bench_of(*typed(*FEW)), 3)
    walk(group, 1)
    with torch.no_grad():
        group.trainer.params[0][1] = float("inf")
    group.trainer.validate()
    assert group.leaving() == [1]
    assert group.diverged_at() == {1: (1, "val/loss = nan")}
    walk(group, 3)
    assert group.leaving() == [1]
