"""Planted faults: every word of conf/fault/ spoils a run, always alike, and resumes; the healthy
twin is the run without it."""

import copy
import json

import pytest
import torch
from benches import bench_of

import trainlab
from trainlab.__main__ import main
from trainlab.config import words
from trainlab.errors import ConfigError
from trainlab.storage import checkpoint, restore
from trainlab.training import randomness

WORDS = [word for word in words.groups()["fault"] if word != "none"]
NEEDS = {
    "optim_eps": ["optim=adam"],
    "norm_mode": ["norm=batch"],
    "loop_mode": ["norm=batch"],
    "init_mismatch": ["model.widths=[32,32]"],
}
PLAIN = ["model.widths=[32]", "epochs=2"]
every_fault = pytest.mark.parametrize("word", WORDS)


def fresh(word, *more):
    return bench_of(*PLAIN, *NEEDS.get(word, []), f"fault={word}", "task=train", *more).fresh()


def steps(trainer, count):
    randomness.seed_everything(0, "dropout")
    trainer.set_train_mode(trainer.model)
    return torch.stack(
        [trainer.step(*trainer.batches(trainer.step_count)).detach() for _ in range(count)]
    )


@every_fault
def test_it_says_where_it_comes_from_and_what_it_does(word):
    told = words.source("fault", word)
    assert "https://" in told and len(told.split(": ")[-1]) > 10


@every_fault
def test_it_changes_the_run_and_always_alike(word):
    healthy = bench_of(*PLAIN, *NEEDS.get(word, [])).fresh()
    one, two = fresh(word), fresh(word)
    seen = [look(trainer) for trainer in (one, two, healthy)]
    assert same(seen[0], seen[1])
    assert not same(seen[0], seen[2])


def look(trainer):
    """Losses, weights, the length of the training, the batches and the validation."""
    later = trainer.batches.per_epoch  # of the second epoch
    ahead = trainer.batches(later)[0], trainer.validation(0)[0]
    losses = steps(trainer, min(trainer.steps, 12))
    judged = torch.stack(list(trainer.evaluate(trainer.validation).values()))
    length = torch.tensor(trainer.steps)
    return [losses, *trainer.model.state_dict().values(), length, *ahead, judged]


def same(one, two):
    return all(
        a.shape == b.shape and torch.equal(a.nan_to_num(7), b.nan_to_num(7))
        for a, b in zip(one, two, strict=True)
    )


@every_fault
def test_it_resumes_bit_for_bit(word):
    whole, half, again = (fresh(word) for _ in range(3))
    if word == "loop_no_zero_grad":
        pytest.skip("gradients that add up over steps are in no checkpoint")
    if whole.steps < 5:
        pytest.skip(f"{whole.steps} steps in all")
    steps(whole, 5)
    steps(half, 2)
    tensors, numbers = checkpoint.state_of(half)
    tensors = {name: t.clone() for name, t in tensors.items()}
    random = copy.deepcopy(randomness.random_state())
    restore.restore(again, tensors, {}, json.loads(json.dumps(numbers)))
    randomness.restore_random_state(*random)
    again.set_train_mode(again.model)
    for _ in range(3):
        again.step(*again.batches(again.step_count))
    assert same(whole.model.state_dict().values(), again.model.state_dict().values())


def test_the_twin_is_the_run_without_the_fault(tmp_path, capsys):
    lines = ["epochs=2", "probe.every=20"]
    plain = trainlab.run(*lines, "preflight=full", f"hydra.run.dir={tmp_path}/plain")
    capsys.readouterr()
    trainlab.run(*lines, "fault=init_zero", f"hydra.run.dir={tmp_path}/run")
    twin = json.loads((tmp_path / "run" / "healthy" / "summary.json").read_text())
    assert twin["weights_sha256"] == plain["weights_sha256"]
    found = json.loads((tmp_path / "run" / "findings.json").read_text())
    assert found[0]["id"] == "init.zero"
    assert json.loads((tmp_path / "run" / "healthy" / "findings.json").read_text()) == []
    told = capsys.readouterr().out
    assert "all weights are 0" in told.splitlines()[0]
    assert "fault   init.zero: finding no. 1, before training" in told


def test_a_run_that_diverges_still_has_its_twin(tmp_path, capsys):
    lines = [
        "fault=optim_lr_high",
        "fault.severity=1e4",
        "epochs=2",
        f"hydra.run.dir={tmp_path}/run",
    ]
    assert main(lines) == 7
    assert (tmp_path / "run" / "healthy" / "summary.json").exists()
    assert "optim.lr_high: finding no. 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "lines, told",
    [
        (["fault=optim_eps"], "optim=adam"),
        (["fault=norm_mode"], "norm=batch"),
        (["fault=label_noise"], "did you mean fault=data_label_noise"),
        (["fault=data_label_noise", "fault.severity=2"], "between 0 and 1"),
        (["fault=data_label_noise", "fault.severity=much"], "a finite number"),
        (["fault=arch_linear", "model=linear"], "no activation"),
        (["task=teach"], "fault=WORD"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, capsys, lines, told):
    assert main([*lines, "quiet=true", f"hydra.run.dir={tmp_path}/run"]) == 2
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1


def test_severity_is_typed():
    weak, strong = (fresh("init_too_large", f"fault.severity={s}") for s in (1, 3))
    a, b = (
        next(p.detach() for p in t.model.parameters() if p.dim() > 1).std() for t in (weak, strong)
    )
    assert float(b / a) == pytest.approx(3)
    with pytest.raises(ConfigError, match="severity"):
        bench_of("fault=none", "fault.severity=1")
