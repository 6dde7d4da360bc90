"""Taps see every activation rightly and change nothing of what they watch."""

import gc
import math
import warnings
import weakref
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from trainlab.nn import norm
from trainlab.nn.cnn import cnn
from trainlab.nn.mlp import mlp
from trainlab.observe.capture import (
    ACTIVATIONS,
    capture,
    capture_around,
    capture_step,
    probe_step,
    recorded_layers,
)
from trainlab.observe.statistics import measure
from trainlab.probes.activation import activation, dead
from trainlab.probes.gradient import gradient
from trainlab.probes.update import update
from trainlab.probes.weight import weight
from trainlab.training.trainer import Every, Extras, Trainer, Watch

PROBES = {"activation": activation, "gradient": gradient, "update": update, "weight": weight}


class Spelled(nn.Module):
    """Every way to call an activation, with in-place changes of what came before."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.shared = nn.ReLU(inplace=True)

    def forward(self, x):
        h = F.elu(self.a(x))
        h *= 2  # would corrupt what was recorded
        h = self.shared(self.b(h))
        h = self.shared(self.b(h))
        h = self.b(h)
        h.tanh_()  # the result is not used: h itself changed
        h = self.b(h)
        F.relu(h, inplace=True)
        h = torch.sigmoid(h) + 1
        return self.c(self.b(h).clamp(-1, 1).relu())


NAMES = ["01.elu", "02.relu", "03.relu", "04.tanh", "05.relu", "06.sigmoid", "07.relu", "08.logits"]


def by_hand(net: Spelled, x):
    """The same net without in-place calls: outputs of the activations, then the logits."""
    outs = [F.elu(net.a(x))]
    outs += [torch.relu(net.b(outs[-1] * 2))]
    outs += [torch.relu(net.b(outs[-1]))]
    outs += [torch.tanh(net.b(outs[-1]))]
    outs += [torch.relu(net.b(outs[-1]))]
    outs += [torch.sigmoid(outs[-1])]
    outs += [torch.relu(net.b(outs[-1] + 1).clamp(-1, 1))]
    return [*outs, net.c(outs[-1])]


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(16, 6), torch.randint(0, 3, (16,))


def test_every_spelling_is_seen_with_its_value_and_gradient(batch):
    x, y = batch
    net = Spelled()
    record = capture(net, F.cross_entropy, x, y)
    outs = by_hand(net, x)
    grads = torch.autograd.grad(F.cross_entropy(outs[-1], y), outs)
    assert [layer.name for layer in record.layers] == NAMES
    for layer, out, grad in zip(record.layers, outs, grads, strict=True):
        torch.testing.assert_close(layer.out, out, rtol=0, atol=0)
        torch.testing.assert_close(layer.grad, grad)
        if layer.function:
            torch.testing.assert_close(layer.again(layer.x.clone()), out, rtol=0, atol=0)


def test_the_model_computes_what_it_computes_alone(batch):
    x, y = batch
    net = Spelled()
    alone = net(x)
    alone_grads = torch.autograd.grad(F.cross_entropy(alone, y), net.parameters())
    with recorded_layers(net):
        logits = net(x)
    grads = torch.autograd.grad(F.cross_entropy(logits, y), net.parameters())
    assert torch.equal(logits, alone)
    assert all(map(torch.equal, grads, alone_grads))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_each_activation_of_torch_is_seen_once(name):
    function = getattr(F, name)
    args = {"threshold": (0.1, 0.2), "prelu": (torch.tensor([0.25]),)}.get(name, ())
    x = torch.linspace(-2, 2, 12).view(4, 3)
    with recorded_layers(nn.Identity()) as layers:
        out = function(x, *args)
    assert [layer.name for layer in layers] == [f"01.{name}"]
    assert torch.equal(layers[0].out, out) and torch.equal(layers[0].x, x)
    for spelled in (getattr(F, f"{name}_", None), getattr(torch.Tensor, f"{name}_", None)):
        if spelled is not None:
            mine = x.clone()
            with recorded_layers(nn.Identity()) as layers:
                spelled(mine, *args)
            assert [layer.name for layer in layers] == [f"01.{name}"]
            assert torch.equal(mine, out) and torch.equal(layers[0].x, x)


def test_every_elementwise_activation_of_torch_is_known():
    """Whatever torch.nn calls an activation, except those that mix elements."""
    mixing = {"glu", "softmax", "softmin", "log_softmax", "multi_head_attention_forward"}
    classes = {
        n for n, c in vars(nn.modules.activation).items() if n in nn.__dict__ and n[0].isupper()
    }
    classes -= {"Module", "Parameter"}
    known = {n.replace("_", "") for n in (*ACTIVATIONS, *mixing)}
    known |= {"softmax2d", "multiheadattention", "nondynamicallyquantizablelinear"}
    assert {n for n in classes if n.lower() not in known} == set()


def test_what_is_no_activation_is_not_seen():
    x = torch.randn(4, 3)
    with recorded_layers(nn.Identity()) as layers:
        F.dropout(x.clamp(0).abs().exp(), 0.5).softmax(1)
        nn.LayerNorm(3)(x)
    assert layers == []


def test_the_hook_and_the_mode_are_gone_also_after_an_error(batch):
    net = Spelled()
    with pytest.raises(RuntimeError), recorded_layers(net) as layers:
        net(torch.randn(2, 5))
    count = len(layers)
    net(batch[0])
    assert len(layers) == count and not net._forward_hooks


def test_taps_work_inside_a_mapped_function():
    models = [mlp((6,), 3, nn.Tanh, norm.none, widths=[5]) for _ in range(4)]
    params, _ = torch.func.stack_module_state(models)
    x = torch.randn(7, 6)

    def seen(params):
        with recorded_layers(models[0]) as layers:
            logits = torch.func.functional_call(models[0], params, x)
        return logits, [layer.out for layer in layers]

    logits, outs = torch.vmap(seen)(params)
    for run, model in enumerate(models):
        torch.testing.assert_close(logits[run], model(x))
        torch.testing.assert_close(outs[0][run], model[1](x))


def nets():
    return {
        "mlp": mlp((1, 8, 8), 10, nn.ReLU, norm.batch, widths=[16, 12], dropout=0.3),
        "cnn": cnn((1, 8, 8), 10, partial(nn.ReLU, inplace=True), norm.batch, [4, 6], dropout=0.2),
    }


def trained(kind: str, probe: bool, steps: int = 50):
    torch.manual_seed(3)
    net = nets()[kind]
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    data = torch.Generator().manual_seed(7)
    for _ in range(steps):
        x = torch.randn(12, 1, 8, 8, generator=data)
        y = torch.randint(0, 10, (12,), generator=data)

        def step(x=x, y=y):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()

        if probe:
            with capture_around(net, F.cross_entropy, x, y) as record:
                step()
            measure(record, PROBES)
        else:
            step()
    return net.state_dict(), torch.get_rng_state()


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_training_is_bit_identical_with_probes_on_every_step(kind):
    plain, plain_rng = trained(kind, probe=False)
    watched, rng = trained(kind, probe=True)
    assert torch.equal(rng, plain_rng)
    for name, value in plain.items():
        assert torch.equal(watched[name], value), name


OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": partial(torch.optim.Adam, lr=1e-2),
    "adam, one by one": partial(torch.optim.Adam, lr=1e-2, weight_decay=0.1, foreach=False),
    "lbfgs": partial(torch.optim.LBFGS, lr=0.1, max_iter=3),
}


def trainer_of(kind, optimizer="sgd", **rest):
    torch.manual_seed(3)
    net = Shortcut() if kind == "shortcut" else nets()[kind]

    def batches(step):
        data = torch.Generator().manual_seed(step)
        x = torch.randn(12, 1, 8, 8, generator=data)
        return x, torch.randint(0, 10, (12,), generator=data)

    made = OPTIMIZERS[optimizer](net.parameters())
    return Trainer(net, F.cross_entropy, made, batches, 25, **rest)


class Shortcut(nn.Module):
    """In-place sums and dropout on what an activation put out, which branches."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(1, 4, 3, padding=1),
            nn.Linear(256, 256),
            nn.Linear(256, 10),
        )
        self.norm, self.act = nn.BatchNorm1d(256), nn.ReLU(inplace=True)
        self.slope, self.drop = nn.PReLU(), nn.Dropout(0.3, inplace=True)

    def forward(self, x):
        x = self.act(self.a(x).to(memory_format=torch.channels_last)).flatten(1)
        y = torch.tanh(x).add(1)
        y += self.drop(self.slope(self.norm(self.b(x))))
        return self.c(F.silu(y + x[:, ::1]))


class Nowhere:
    """A log that keeps nothing."""

    def scalars(self, *row):
        pass

    histogram = scalars


def clipped(grads, params):
    return [g * 0.1 for g in grads], torch.ones(())


@pytest.mark.parametrize("clip", [None, clipped])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["mlp", "cnn", "shortcut"])
def test_watched_steps_train_the_same_bits(kind, optimizer, clip):
    states = []
    for every in (0, 1):
        trainer, losses = trainer_of(kind, optimizer, extras=Extras(clip=clip)), []
        watch = Watch(
            lambda step, row, losses=losses: losses.append(row["train/loss"]),
            partial(probe_step, PROBES, Nowhere()),
        )
        trainer.fit(Every(log=1, probe=every), watch)
        state = trainer.model.state_dict() | {"rng": torch.get_rng_state()}
        state |= {str(i): p.grad for i, p in enumerate(trainer.params)}
        state["losses"] = torch.stack(losses)
        states.append(state)
        assert not trainer.model._forward_hooks and trainer.forward is trainer.model
    for name, value in states[0].items():
        assert torch.equal(states[1][name], value), name


@pytest.mark.parametrize("clip", [None, clipped])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["mlp", "cnn", "shortcut"])
def test_a_step_shows_what_a_pass_of_its_own_shows(kind, optimizer, clip):
    trainer = trainer_of(kind, optimizer, extras=Extras(clip=clip))
    x, y = trainer.batches(0)
    for p in trainer.params:
        p.grad = torch.ones_like(p)  # of the step before
    own = capture(trainer.model, trainer.objective, x, y)
    with capture_step(trainer, x, y) as record:
        trainer.step(x, y)
    assert [layer.name for layer in record.layers] == [layer.name for layer in own.layers]
    for a, b in zip(record.layers, own.layers, strict=True):
        assert (a.function, a.args, a.kwargs.keys()) == (b.function, b.args, b.kwargs.keys())
        assert torch.equal(a.x, b.x) and torch.equal(a.out, b.out) and torch.equal(a.grad, b.grad)
        assert a.out.grad_fn is None
    for kept, known in (record.params, own.params), (record.grads, own.grads):
        assert list(kept) == list(known)
        assert all(torch.equal(kept[name], known[name]) for name in known)
    moved = [p - old for p, old in zip(trainer.params, own.params.values(), strict=True)]
    assert all(map(torch.equal, moved, record.updates.values()))


@pytest.mark.parametrize("how", ["accumulate", "forward", "scaler"])
def test_what_is_no_plain_step_gets_a_pass_of_its_own(how, monkeypatch):
    passes = []
    ways = {
        "accumulate": {"accumulate": 2},
        "forward": {"extras": Extras(forward=lambda x: trainer.model(x))},
        "scaler": {"extras": Extras(scaler=torch.amp.GradScaler("cpu"))},
    }
    trainer = trainer_of("mlp", **ways[how])
    monkeypatch.setattr(
        "trainlab.observe.capture.capture", lambda *a: passes.append(a) or capture(*a)
    )
    x, y = trainer.batches(0)
    with capture_step(trainer, x, y) as record:
        trainer.step(x, y)
    assert len(passes) == 1 and record.updates and record.layers[0].grad is not None


def test_a_step_that_fails_leaves_no_trace(batch):
    trainer = trainer_of("mlp")
    x, y = trainer.batches(0)
    with pytest.raises(IndexError), capture_step(trainer, x, y):
        trainer.step(x, y + 100)
    assert trainer.forward is trainer.model and not trainer.model._forward_hooks
    assert all(not p._backward_hooks for p in trainer.params)


def test_nothing_of_a_step_is_kept_alive(batch):
    trainer = trainer_of("shortcut")
    gc.disable()
    try:
        with capture_step(trainer, *trainer.batches(0)) as record:
            trainer.step(*trainer.batches(0))
        kept = [weakref.ref(t) for layer in record.layers for t in (layer.x, layer.out, layer.grad)]
        del record
        assert not [ref for ref in kept if ref() is not None]
    finally:
        gc.enable()


class Unruly(nn.Module):
    """Keeps a generator of its own, rebinds a buffer, and has a part that never gets a gradient."""

    def __init__(self):
        super().__init__()
        self.head, self.unused = nn.Linear(6, 3), nn.Linear(2, 2)
        self.register_buffer("calls", torch.zeros(()))
        self.generators = [torch.Generator().manual_seed(5)]

    def forward(self, x):
        self.calls = self.calls + 1
        return self.head(x + torch.randn(x.shape, generator=self.generators[0]) + torch.rand(()))


def test_a_look_leaves_everything_as_it_was(batch):
    x, y = batch
    net = nn.Sequential(Unruly(), nn.BatchNorm1d(3), nn.Dropout(0.5))
    net[1].eval()
    F.cross_entropy(net(x), y).backward()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    grads = [None if p.grad is None else (p.grad, p.grad.clone()) for p in net.parameters()]
    rng, own = torch.get_rng_state(), net[0].generators[0].get_state()
    modes = [m.training for m in net.modules()]
    buffer = net[0].calls
    record = capture(net, F.cross_entropy, x, y)
    dead(net, Batches([batch]))
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng) and net[0].calls is buffer
    assert torch.equal(net[0].generators[0].get_state(), own)
    assert [m.training for m in net.modules()] == modes
    for p, kept in zip(net.parameters(), grads, strict=True):
        assert (p.grad is None) if kept is None else (p.grad is kept[0] and p.grad.equal(kept[1]))
    assert not any("unused" in name for name in record.grads)


class Batches(list):
    """Batches in a list, as a pass."""

    @property
    def per_epoch(self):
        return len(self)

    def __call__(self, step):
        return self[step]


def test_the_look_has_the_masks_of_the_step_that_follows(batch):
    x, y = batch
    net = nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.5))
    record = capture(net, F.cross_entropy, x, y)
    assert torch.equal(record.layers[-1].out, net(x))


def test_an_objective_that_works_in_place_does_not_change_what_was_seen(batch):
    x, y = batch
    net = nn.Linear(6, 3)
    layer = capture(net, lambda logits, y: F.cross_entropy(logits.mul_(3), y), x, y).layers[-1]
    logits = net(x)
    (grad,) = torch.autograd.grad(F.cross_entropy(3 * logits, y), logits)
    assert torch.equal(layer.out, logits)
    torch.testing.assert_close(layer.grad, grad)


def test_updates_are_after_minus_before(batch):
    x, y = batch
    net = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    with capture_around(net, F.cross_entropy, x, y) as record:
        before = net.weight.detach().clone()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    assert list(record.updates) == list(record.params) == ["01.weight", "02.bias"]
    assert torch.equal(record.updates["01.weight"], net.weight.detach() - before)
    torch.testing.assert_close(record.updates["02.bias"], -0.5 * record.grads["02.bias"])


def test_nothing_is_kept_alive(batch):
    x, y = batch
    net = Spelled()
    with capture_around(net, F.cross_entropy, x, y) as record:
        pass
    measure(record, PROBES)
    assert all(layer.out.grad_fn is None for layer in record.layers)
    kept = [weakref.ref(t) for layer in record.layers for t in (layer.x, layer.out, layer.grad)]
    kept += [weakref.ref(t) for t in (*record.params.values(), *record.grads.values())]
    gc.disable()  # not even a circle
    try:
        del record
        assert not [ref for ref in kept if ref() is not None]
    finally:
        gc.enable()


class Compiled(nn.Module):
    """What torch.compile returns, as far as it matters: the module behind it is `_orig_mod`."""

    def __init__(self, model):
        super().__init__()
        self._orig_mod = model

    def forward(self, x):
        raise AssertionError("the compiled module must not be called")


def test_the_module_behind_a_compiled_one_is_looked_at(batch):
    net = Spelled()
    with capture_around(Compiled(net), F.cross_entropy, *batch) as record:
        pass
    assert [layer.name for layer in record.layers] == NAMES
    assert list(record.updates) == list(record.params) and "01.a.weight" in record.params


class Waits(TorchDispatchMode):
    """Names the calls that make the host wait for the device, on whatever device they run."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, kwargs = function.name().removeprefix("aten::"), kwargs or {}
        moved = name == "_to_copy" and kwargs.get("device") is not None
        limits = name == "histc" and len(args) < 4  # it looks for them in the data
        if moved or limits or name in ("_local_scalar_dense", "nonzero", "equal", "is_nonzero"):
            self.seen.append(name)
        return function(*args, **kwargs)


def test_one_transfer_a_probe_step(batch, monkeypatch):
    lists = []
    for name in ("cpu", "tolist", "item", "__float__"):
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda t, real=real: lists.append(t) or real(t))
    with Waits() as waits:
        with capture_around(Spelled(), F.cross_entropy, *batch) as record:
            pass
        scalars, histograms = measure(record, PROBES)
    assert len(lists) == 1 and waits.seen == []
    assert all(isinstance(value, float) for value in scalars.values())
    assert all(sum(counts) > 0 and len(counts) == 64 for counts, _, _ in histograms.values())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_one_transfer_and_untouched_streams_on_cuda():
    net = nets()["mlp"].cuda()
    x, y = torch.randn(12, 1, 8, 8).cuda(), torch.randint(0, 10, (12,)).cuda()
    with capture_around(
        net, F.cross_entropy, x, y
    ) as record:  # the first time allocates and compiles
        pass
    measure(record, PROBES)
    state = torch.cuda.get_rng_state()
    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with capture_around(net, F.cross_entropy, x, y) as record:
                pass
            scalars, _ = measure(record, PROBES)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len([w for w in waits if "synchroniz" in str(w.message)]) == 1
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert torch.equal(record.layers[-1].out, net(x))  # the masks of the step that follows
    assert all(map(math.isfinite, scalars.values()))
