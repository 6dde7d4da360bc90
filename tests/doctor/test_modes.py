"""Both modes on one batch: what is seen, that nothing moves, and real runs found by it."""

import json

import pytest
import torch
from forked import finish
from torch import nn
from torch.nn import functional

from trainlab import examine
from trainlab.doctor.modes import both_modes
from trainlab.observe.metrics_log import rows
from trainlab.training.trainer import Trainer

QUICK = ["task=train", "preflight=quick", "epochs=8", "seed=3"]
BN = ["norm=batch", "model.widths=[64,32]"]
PLANTED = {
    "statistics of the batch in evaluation": ("norm.mode", ["fault=norm_mode", *BN]),
    "training in evaluation mode": ("loop.mode", ["fault=loop_mode", *BN]),
    "some modules only": ("loop.mode", ["fault=loop_mode", "fault.severity=0.7", *BN]),
    "dropout 0.95": ("reg.dropout_high", ["fault=reg_dropout_high"]),
    "dropout 0.9, batch norm": (
        "reg.dropout_high",
        ["fault=reg_dropout_high", "fault.severity=0.9", *BN],
    ),
    "statistics that lag": ("norm.mode", ["norm.momentum=1e-4", *BN]),
}


class Handmade(nn.Module):
    """Batch norm and dropout of nobody's make."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 64) / 8)
        self.register_buffer("seen", torch.zeros(64))

    def forward(self, x):
        if self.training:
            self.seen.lerp_(x.mean(0), 0.1)
        x = x - (x.mean(0) if self.training else self.seen)
        return functional.dropout(x, 0.5, self.training) @ self.weight.t()


def norm_and_dropout():
    parts = nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10)
    return nn.Sequential(*parts)


def trainer_of(build):
    torch.manual_seed(0)
    x, y = torch.randn(32, 64) + 1, torch.arange(32) % 10
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Trainer(model, functional.cross_entropy, optimizer, lambda step: (x, y), 9)


def test_a_model_whose_modes_agree_has_no_rows():
    trainer = trainer_of(lambda: nn.Sequential(nn.Linear(64, 10), nn.LayerNorm(10)))
    assert both_modes(trainer, *trainer.batches(0)) == {}


@pytest.mark.parametrize("build", [Handmade, norm_and_dropout])
def test_nothing_moves(build):
    trainer = trainer_of(build)
    model, (x, y) = trainer.model, trainer.batches(0)
    trainer.step(x, y)
    model[1].eval() if build is norm_and_dropout else None
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes, stream = [m.training for m in model.modules()], torch.get_rng_state()
    seen = both_modes(trainer, x, y)
    assert seen["modes/train_loss"] != seen["modes/eval_loss"]
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), stream)


def test_the_layers_that_have_a_mode():
    trainer = trainer_of(norm_and_dropout)
    model, batch = trainer.model, trainer.batches(0)
    seen = both_modes(trainer, *batch)
    assert (seen["modes/resting"], seen["modes/live"], seen["modes/dropout"]) == (0, 0, 0.5)
    assert seen["modes/statistics"] == pytest.approx(32**0.5)  # means 0, variances 1
    model[3].eval()
    assert both_modes(trainer, *batch)["modes/resting"] == 0.5
    model.eval()
    for p in model[1].parameters():
        p.requires_grad_(False)  # its statistics rest on purpose
    seen = both_modes(trainer, *batch)
    assert (seen["modes/resting"], "modes/statistics" in seen) == (0.5, False)
    model[1] = nn.BatchNorm1d(32, track_running_stats=False)
    seen = both_modes(trainer, *batch)
    assert (seen["modes/live"], "modes/statistics" in seen) == (0.5, False)


@pytest.mark.parametrize("name", PLANTED)
def test_found_while_training(tmp_path, name):
    expected, words = PLANTED[name]
    assert finish([*QUICK, *words, f"hydra.run.dir={tmp_path}/run"], tmp_path)[0] in (0, 7)
    found = [f for f in examine(tmp_path / "run") if f.severity != "info"]
    assert found[0].id == expected
    assert found[0].tag.startswith("modes/")


def test_the_weights_are_those_of_a_run_that_nobody_watches(tmp_path):
    words = [*QUICK, *BN, "model.dropout=0.3", "max_steps=90"]
    kept = []
    for probe in ("probe=none", "probe.every=100"):
        where = tmp_path / probe
        where.mkdir()
        assert finish([*words, probe, f"hydra.run.dir={where}/run"], where)[0] == 0
        kept.append(json.loads((where / "run" / "summary.json").read_text())["weights_sha256"])
    assert kept[0] == kept[1]
    tags = {
        tag for row in rows(tmp_path / "probe.every=100" / "run" / "metrics.jsonl") for tag in row
    }
    assert {"modes/train_loss", "modes/eval_loss", "modes/statistics"} <= tags
