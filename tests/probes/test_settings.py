"""The statistics are those of the step that is taken, however it is taken."""

import pytest
import torch
from benches import bench_of
from torch import nn
from torch.nn import functional as F

from trainlab.experiment import regularisation
from trainlab.observe.capture import capture, probe_step
from trainlab.observe.statistics import measure
from trainlab.probes.activation import activation
from trainlab.probes.gradient import gradient
from trainlab.probes.update import update
from trainlab.training.trainer import Every, Extras, Trainer, Watch

PROBES = {"activation": activation, "gradient": gradient, "update": update}
SMALL = ["model.widths=[16,12]", "batch_size=64", "schedule=constant"]


class Kept:
    """A log that keeps the rows."""

    def __init__(self):
        self.rows = {}

    def scalars(self, step, values):
        self.rows[step] = values

    def histogram(self, *row):
        pass


def after_a_look(*words):
    """A trainer that took one step, the parameters before it, and what the probes said of it."""
    trainer, log = bench_of(*SMALL, *words).fresh(), Kept()
    before = [p.detach().clone() for p in trainer.model.parameters()]
    with probe_step(PROBES, log, trainer, *trainer.batches(0)):
        trainer.step(*trainer.batches(0))
    return trainer, before, log.rows[1]


@pytest.mark.parametrize(
    ("words", "near"),
    [
        ([], 1e-6),
        (["accumulate=4"], 1e-5),  # the gradient is that of the whole batch
        (["accumulate=4", "model.widths=[6]", "batch_size=30"], 1e-5),  # of unequal parts
        (["precision=bf16"], 0.03),
        (["precision=fp16"], 0.01),  # the loss was multiplied by 65536
        (["precision=fp16", "accumulate=3"], 0.01),
        (["penalty.l2=0.1"], 1e-5),
    ],
)
def test_norms_of_gradients_and_updates_are_those_of_the_step(words, near):
    trainer, before, seen = after_a_look(*words)
    params = dict(trainer.model.named_parameters())
    assert len([tag for tag in seen if tag.startswith("weight_gradient_norm/")]) == len(params)
    for number, ((name, p), old) in enumerate(zip(params.items(), before, strict=True), 1):
        tag = f"{number:02}.{name}"
        norm = pytest.approx(float(p.grad.norm()), rel=near)
        assert seen[f"weight_gradient_norm/{tag}"] == norm, tag
        if p.dim() > 1:
            ratio = float((p.detach() - old).norm() / old.norm())
            assert seen[f"update_ratio/{tag}"] == pytest.approx(ratio, rel=1e-6) != 0


def test_gradients_are_those_before_clipping():
    trainer, before, seen = after_a_look("clip.norm=0.001")
    clipped = torch.stack([p.grad.norm() for p in trainer.model.parameters()]).norm()
    norms = [v for tag, v in seen.items() if tag.startswith("weight_gradient_norm/")]
    assert float(clipped) == pytest.approx(1e-3, rel=1e-3)
    assert torch.tensor(norms).norm() > 0.1


def test_half_precision_inside_a_model_is_summed_in_single():
    """72,000 elements near 1000: in half precision neither their sum nor their squares fit."""

    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.eye(8))

        def forward(self, x):
            with torch.autocast("cpu", torch.float16):
                return F.relu(F.linear(x, self.weight)).float()

    x = 100 * torch.rand(9000, 8) + 1000
    record = capture(Half(), lambda out, y: out.mean(), x, x)
    assert record.layers[0].out.dtype == torch.float16
    seen, _ = measure(record, {"activation": activation})
    out = record.layers[0].out.double()
    assert seen["activation_mean/01.relu"] == pytest.approx(float(out.mean()), rel=1e-5)
    assert seen["activation_std/01.relu"] == pytest.approx(float(out.std(correction=0)), rel=1e-4)


class Tied(nn.Module):
    """One matrix is the first and the last layer (Press and Wolf 2017); one ReLU is used twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.b(self.act(self.a(self.act(self.b(x)))))


def step_of(model, forward=None):
    torch.manual_seed(1)
    x, y = torch.randn(20, 6), torch.randint(0, 6, (20,))
    optimizer, log = torch.optim.SGD(model.parameters(), lr=0.1), Kept()
    trainer = Trainer(
        model, F.cross_entropy, optimizer, lambda s: (x, y), 1, extras=Extras(forward=forward)
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    looks = Watch(probe=lambda trainer, x, y: probe_step(PROBES, log, trainer, x, y))
    trainer.fit(Every(probe=1), looks)
    return log.rows[1], before


def test_a_tied_weight_is_one_parameter_with_the_sum_of_its_gradients():
    torch.manual_seed(0)
    model = Tied()
    seen, before = step_of(model)
    untied = Tied()
    untied.load_state_dict(before | {"b.weight": before["a.weight"]})
    untied.b.weight = nn.Parameter(before["a.weight"].clone())
    step_of(untied)
    whole = untied.a.weight.grad + untied.b.weight.grad
    tags = [tag for tag in seen if tag.startswith("weight_gradient_norm/")]
    assert tags == [f"weight_gradient_norm/{n}" for n in ("01.a.weight", "02.a.bias", "03.b.bias")]
    assert seen[tags[0]] == pytest.approx(float(whole.norm()), rel=1e-6)
    ratio = float(0.1 * whole.norm() / before["a.weight"].norm())
    assert seen["update_ratio/01.a.weight"] == pytest.approx(ratio, rel=1e-4)
    assert [tag for tag in seen if "activation_std" in tag] == [
        f"activation_std/{name}" for name in ("01.relu", "02.relu", "03.logits")
    ]


def test_a_compiled_model_has_the_figures_of_the_plain_one(monkeypatch):
    compiled = []
    real = torch.compile

    def traced(model):
        compiled.append(real(model, backend="aot_eager"))
        return compiled[-1]

    monkeypatch.setattr(torch, "compile", traced)
    rows, weights = [], []
    for compiles in (False, True):
        torch.manual_seed(0)
        model = Tied()
        rows.append(step_of(model, regularisation.forward(model, "fp32", compiles, False))[0])
        weights.append(model.a.weight.detach())
    assert len(compiled) == 1
    assert rows[0].keys() == rows[1].keys()
    for tag, value in rows[0].items():
        assert rows[1][tag] == pytest.approx(value, rel=1e-5), tag
    torch.testing.assert_close(*weights)
