"""Every optimizer word through the door: it steps, decays or says that it cannot, takes groups, and
goes on from a checkpoint bit for bit. The own ones against their paper's equation in float64."""

import json

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from trainlab.config import words
from trainlab.config.build import Door
from trainlab.errors import ConfigError
from trainlab.optim.descent import LARS, AnnealedNoise, MomentumEMA
from trainlab.optim.groups import parameter_groups
from trainlab.optim.muon import QUINTIC, Muon, orthogonalised
from trainlab.optim.schedule import cosine
from trainlab.storage import checkpoint, restore
from trainlab.training.trainer import Every, Trainer, Watch

WORDS = words.groups()["optim"]
KEYS = {"lr", "weight_decay"}


def factory(word, **keys):
    node = OmegaConf.load(words.conf() / "optim" / f"{word}.yaml")
    cfg = OmegaConf.create({"seed": 1, "optim": node})
    return Door()(cfg.optim, **keys)


def batches(step):
    generator = torch.Generator().manual_seed(step % 3)
    y = torch.arange(24) % 3
    return torch.randn(24, 4, generator=generator) + 2 * nn.functional.one_hot(y, 4), y


batches.per_epoch = 3


def one_batch(step):
    """The same three batches as one, at every step."""
    x, y = zip(*map(batches, range(3)), strict=True)
    return torch.cat(x), torch.cat(y)


one_batch.per_epoch = 1


@pytest.fixture(autouse=True)
def one_thread():
    """Threads change the order of sums, and cost more than they save on networks of this size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def model_of():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 12), nn.BatchNorm1d(12), nn.ReLU(),
        nn.Unflatten(1, (3, 4)), nn.Conv1d(3, 6, 3), nn.Flatten(), nn.Linear(12, 3),
    )  # fmt: skip


def trainer_of(make, steps=40, grouped=False, batches=batches):
    model = model_of()
    keys = {"factors": ["6.*:0.5"], "layer_decay": 0.9} if grouped else {}
    lr = make.keywords["lr"]
    found = parameter_groups(model, lr, 1e-3 if grouped else 0.0, **keys)
    return Trainer(
        model, nn.functional.cross_entropy, make(found), batches, steps,
        schedule=cosine, validation=batches,
    )  # fmt: skip


class Enough(Exception):
    pass


def fit_to(trainer, at):
    def after(trainer):
        if trainer.step_count == at:
            raise Enough

    with pytest.raises(Enough):
        trainer.fit(Every(log=4, evaluate=4), Watch(after=after))


# L-BFGS takes the curvature from one step to the next. On batches that change it is erratic: of 6
# starts that differ by 1e-7 two ended above their first loss, and which ones depended on the number
# of threads. On one batch all of them learn. Two iterations a step leave most of the way after 6.
ON = {"lbfgs": (one_batch, {"max_iter": 2})}


@pytest.mark.parametrize(
    "word, grouped",
    # lbfgs takes one group, see below
    [
        (word, grouped)
        for word in WORDS
        for grouped in (False, True)
        if word != "lbfgs" or not grouped
    ],
)
def test_every_word_learns_and_goes_on_from_a_checkpoint_bit_for_bit(word, grouped):
    on, keys = ON.get(word, (batches, {}))
    whole, half, again = (
        trainer_of(factory(word, **keys), grouped=grouped, batches=on) for _ in range(3)
    )
    first = float(whole.evaluate(on)["loss"])
    whole.fit(Every(log=4, evaluate=4), Watch())
    assert float(whole.evaluate(on)["loss"]) < first
    fit_to(half, 6)
    tensors, numbers = checkpoint.state_of(half)
    tensors = {name: t.clone() for name, t in tensors.items()}
    restore.restore(again, tensors, half.best, json.loads(json.dumps(numbers)))
    again.fit(Every(log=4, evaluate=4), Watch())
    assert again.step_count == whole.step_count
    for mine, theirs in zip(again.params, whole.params, strict=True):
        assert torch.equal(mine, theirs)
    assert not all(map(torch.equal, half.params, whole.params))  # something was left to do


@pytest.mark.parametrize("word", WORDS)
def test_every_word_decays_or_says_that_it_cannot(word):
    assert words.file_values("optim", word).keys() >= {f"optim.{key}" for key in KEYS}
    make = factory(word, weight_decay=0.3)
    p = nn.Parameter(torch.ones(3, 3, dtype=torch.float64))
    try:
        optimizer = make([p])
    except ConfigError as error:
        assert word == "lbfgs"
        assert "optim.weight_decay = 0.3" in str(error)
        assert "penalty.l2=0.3" in str(error)
        return

    def closure():
        p.grad = torch.zeros_like(p)
        return p.sum()

    for _ in range(3):
        optimizer.step(closure)
    if word != "annealed_noise":
        assert (p.abs() < 1).all()


def test_lbfgs_refuses_decay_in_a_group_and_two_groups():
    make, model = factory("lbfgs"), model_of()
    with pytest.raises(ConfigError, match="optim.weight_decay = 0.1"):
        make([{"params": list(model.parameters()), "weight_decay": 0.1}])
    with pytest.raises(ConfigError, match="takes one group of parameters, got 4"):
        make(parameter_groups(model, 1.0, 0.0, layer_decay=0.5, factors=["6.bias:2"]))


def path_of(make, lr_at=lambda step: 1.0, steps=20):
    """Weights after each step on a quadratic with its own curvature for each element."""
    generator = torch.Generator().manual_seed(2)
    params = [
        torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_()
        for s in ((4, 3), (4,), (5, 4))
    ]
    optimizer, seen = make(params), []
    lrs = [group["lr"] for group in optimizer.param_groups]
    for step in range(steps):
        for group, lr in zip(optimizer.param_groups, lrs, strict=True):
            group["lr"] = lr * lr_at(step)

        def closure():
            optimizer.zero_grad()
            loss = sum(((k + 1) * p**2 / 2 + p**4 / 4).sum() for k, p in enumerate(params))
            loss.backward()
            return loss

        optimizer.step(closure)
        seen.append([p.detach().clone() for p in params])
    return seen


def same(mine, theirs):
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_momentum_ema_is_momentum_at_a_smaller_lr():
    for decay in (0.0, 0.02):
        mine = path_of(lambda p, d=decay: MomentumEMA(p, 0.2, d, momentum=0.8))
        theirs = path_of(lambda p, d=decay: torch.optim.SGD(p, 0.04, 0.8, weight_decay=d))
        same(mine, theirs)


def test_momentum_ema_forgets_where_torchs_dampening_starts():
    """torch starts from m = g, the (1 - momentum) form from m = 0: the difference dies as
    momentum^t."""
    torch.manual_seed(0)
    grads = torch.randn(60, 3, dtype=torch.float64)
    ends = []
    for make in (
        lambda p: MomentumEMA(p, 1.0, momentum=0.7),
        lambda p: torch.optim.SGD(p, 1.0, momentum=0.7, dampening=0.7),
    ):
        w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        optimizer, moves = make([w]), []
        for g in grads:
            before = w.detach().clone()
            w.grad = g.clone()
            optimizer.step()
            moves.append(before - w.detach())
        ends.append(torch.stack(moves))
    gap = ends[1] - ends[0]
    expected = 0.7 ** torch.arange(1, 61, dtype=torch.float64)[:, None] * grads[0]
    torch.testing.assert_close(gap, expected, rtol=0, atol=1e-12)


def test_annealed_noise_without_noise_is_sgd():
    mine = path_of(lambda p: AnnealedNoise(p, 0.05, 0.02, eta=0.0))
    same(mine, path_of(lambda p: torch.optim.SGD(p, 0.05, weight_decay=0.02)))


def test_annealed_noise_has_the_papers_variance_and_leaves_every_stream_alone():
    w = torch.zeros(100_000, dtype=torch.float64, requires_grad=True)
    optimizer = AnnealedNoise([w], lr=1.0, eta=0.3, gamma=0.55, seed=4)
    w.grad, before = torch.zeros_like(w), torch.get_rng_state()
    seen = []
    for step in range(5):
        old = w.detach().clone()
        optimizer.step()
        seen.append(old - w.detach())
        assert float(seen[-1].var()) == pytest.approx(0.3 / (1 + step) ** 0.55, rel=0.02)
    assert float(torch.corrcoef(torch.stack(seen)[:2])[0, 1]) == pytest.approx(0, abs=0.02)
    assert torch.equal(torch.get_rng_state(), before)


def test_annealed_noise_differs_from_group_to_group():
    params = [torch.zeros(4, requires_grad=True) for _ in range(2)]
    for p in params:
        p.grad = torch.zeros(4)
    AnnealedNoise([{"params": [p]} for p in params], lr=1.0).step()
    assert not torch.equal(*params)


def test_annealed_noise_follows_its_seed():
    ends = [path_of(lambda p, s=s: AnnealedNoise(p, 0.05, seed=s))[-1] for s in (1, 1, 2)]
    assert all(map(torch.equal, ends[0], ends[1]))
    assert not torch.equal(ends[0][0], ends[2][0])


def test_lars_is_algorithm_1_of_the_paper():
    keys = {"lr": 0.05, "weight_decay": 0.03, "momentum": 0.9, "trust": 0.5}
    mine = path_of(lambda p: LARS(p, **keys), lr_at=lambda step: 1 - step / 20)
    generator = torch.Generator().manual_seed(2)
    for k, shape in enumerate([(4, 3), (4,), (5, 4)]):
        w = torch.randn(shape, generator=generator, dtype=torch.float64)
        v = torch.zeros_like(w)
        for step in range(20):
            g, lr = (k + 1) * w + w**3, 0.05 * (1 - step / 20)
            local = 0.5 * w.norm() / (g.norm() + 0.03 * w.norm()) if len(shape) > 1 else 1.0
            v = 0.9 * v + lr * local * (g + 0.03 * w)
            w = w - v
            torch.testing.assert_close(mine[step][k], w, rtol=1e-11, atol=1e-11)


def test_lars_moves_weights_that_are_zero():
    w = torch.zeros(3, 2, requires_grad=True)
    optimizer = LARS([w], lr=0.1)
    w.grad = torch.ones_like(w)
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.full((3, 2), -0.1))


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_orthogonalised_is_the_quintic_of_each_singular_value(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    u, s, v = torch.linalg.svd(matrix / matrix.norm(), full_matrices=False)
    a, b, c = QUINTIC
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    torch.testing.assert_close(orthogonalised(matrix), u @ torch.diag(s) @ v, rtol=0, atol=1e-9)
    assert (s > 0.5).all()
    assert (s < 1.3).all()


def test_muon_is_torchs_muon_inside_and_torchs_adamw_elsewhere():
    """torch iterates in bfloat16, so the matrices agree to its precision."""

    def fresh():
        torch.manual_seed(1)
        return [torch.randn(s).requires_grad_() for s in ((16, 8), (16,), (6, 16), (6,))]

    mine = fresh()
    optimizer = Muon(mine, lr=0.02, weight_decay=0.1, adam_lr=0.1)
    theirs = fresh()
    muon = torch.optim.Muon(theirs[:1], lr=0.02, weight_decay=0.1)
    adam = torch.optim.AdamW(theirs[1:], lr=0.002, betas=(0.9, 0.95), weight_decay=0.1)
    start = [p.detach().clone() for p in mine]
    for step in range(6):
        torch.manual_seed(step)
        for a, b in zip(mine, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for each in (optimizer, muon, adam):
            each.step()
    torch.testing.assert_close(mine[1:], theirs[1:], rtol=1e-6, atol=1e-7)
    moved = theirs[0].detach() - start[0]
    assert float((mine[0] - theirs[0]).detach().norm() / moved.norm()) < 0.02


def test_muon_takes_a_convolution_as_a_matrix_and_the_schedule_from_outside():
    torch.manual_seed(0)
    conv = torch.randn(6, 2, 3, 3, dtype=torch.float64).requires_grad_()
    flat = conv.detach().flatten(1).requires_grad_()
    head = torch.randn(2, 2, dtype=torch.float64).requires_grad_()
    for lr in (0.02, 0.0):
        optimizers = [Muon([w, head], lr=0.02) for w in (conv, flat)]
        conv.grad = torch.randn_like(conv)
        flat.grad = conv.grad.flatten(1)
        head.grad = torch.zeros_like(head)
        before = conv.detach().clone()
        for optimizer in optimizers:
            assert [group["lr"] for group in optimizer.param_groups] == [0.02, 0.002]
            optimizer.param_groups[0]["lr"] = lr
            optimizer.step()
        torch.testing.assert_close(conv.detach().flatten(1), flat.detach(), rtol=0, atol=1e-12)
        assert torch.equal(before, conv.detach()) == (lr == 0)


def test_muon_finds_the_head_in_groups_by_decay_and_lr():
    model = model_of()
    found = parameter_groups(model, 0.02, 0.1, factors=["0.*:3"], layer_decay=0.5)
    optimizer = Muon(found)
    by_muon = {id(p) for g in optimizer.param_groups if not g["adam"] for p in g["params"]}
    assert by_muon == {id(model[0].weight), id(model[4].weight)}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert rates[id(model[0].weight)] == pytest.approx(0.02 * 3 * 0.25)
    assert rates[id(model[6].weight)] == pytest.approx(0.002)


@pytest.mark.parametrize("make", [MomentumEMA, AnnealedNoise, LARS, Muon])
def test_own_optimizers_never_wait_for_the_device(make, monkeypatch):
    model = model_of()
    optimizer = make(parameter_groups(model, 0.01, 1e-3))
    x, y = batches(0)
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    names = ["tolist", "cpu", "numpy", "__bool__", "__float__", "__int__"]
    for name in names if make is Muon else [*names, "item"]:  # AdamW reads its step, on the CPU

        def wait(self, *args, _name=name, **kwargs):
            raise AssertionError(f"{_name} on {tuple(self.shape)}")

        monkeypatch.setattr(torch.Tensor, name, wait)
    optimizer.step()


def test_a_parameter_without_gradient_is_left_alone():
    for make in (MomentumEMA, AnnealedNoise, LARS, Muon):
        used, unused = (torch.ones(3, 3).requires_grad_() for _ in range(2))
        optimizer = make([unused, used])
        used.grad = torch.ones_like(used)
        optimizer.step()
        assert torch.equal(unused, torch.ones(3, 3))
        assert not torch.equal(used, torch.ones(3, 3))
