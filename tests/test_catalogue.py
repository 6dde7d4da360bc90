"""The three contracts over every word of conf/: it builds, it stacks or says why not, it resumes.

A new file in conf/ is tested the moment it exists.
"""

import copy
import importlib.util
import json
from pathlib import Path

import pytest
import torch

from trainlab.config import words
from trainlab.errors import ConfigError, DataError, NonFiniteError
from trainlab.storage import checkpoint, restore
from trainlab.training import randomness

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("catalogue", ROOT / "scripts" / "build_catalogue.py")
catalogue = importlib.util.module_from_spec(spec)
spec.loader.exec_module(catalogue)

DOWNLOADED = "mnist", "fashion_mnist", "cifar10", "cifar100"
WORDS = [(group, word) for group in catalogue.GROUPS for word in words.groups()[group]]
every_word = pytest.mark.parametrize(("group", "word"), WORDS, ids=[f"{g}={w}" for g, w in WORDS])


@pytest.fixture(scope="module")
def images():
    return catalogue.folder_of_images()


def bench_of(group, word, images):
    """The bench of a word; skips where its data is not on this machine."""
    try:
        return catalogue.bench_of(*catalogue.overrides_of(group, word, images))
    except DataError as error:
        pytest.skip(str(error))


@every_word
def test_a_word_is_documented(group, word):
    lines = (ROOT / "conf" / group / f"{word}.yaml").read_text().splitlines()
    source = next(line for line in lines if not line.startswith("# @package"))
    assert source.startswith("# ")
    assert len(source) > 20, "say where it comes from"
    for key in words.file_values(group, word):
        assert key.isascii()


@every_word
def test_a_word_builds_and_steps(group, word, images):
    trainer = bench_of(group, word, images).fresh()
    losses = [trainer.step(*trainer.batches(step)).detach() for step in range(5)]
    assert torch.stack(losses).isfinite().all()
    scores = trainer.evaluate(trainer.validation)
    assert scores["loss"].isfinite()


@every_word
def test_a_word_resumes_bit_for_bit(group, word, images):
    bench = bench_of(group, word, images)

    def steps(trainer, count):
        for _ in range(count):
            trainer.step(*trainer.batches(trainer.step_count))

    whole, half, again = (bench.fresh() for _ in range(3))
    randomness.seed_everything(0, "dropout")
    steps(whole, 7)
    randomness.seed_everything(0, "dropout")
    steps(half, 3)
    tensors, numbers = checkpoint.state_of(half)
    tensors = {name: t.clone() for name, t in tensors.items()}
    state = randomness.random_state()
    restore.restore(again, tensors, {}, json.loads(json.dumps(numbers)))
    randomness.restore_random_state(*copy.deepcopy(state))
    steps(again, 4)
    for name, expected in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], expected), name
    first, second = (checkpoint.state_of(t)[0] for t in (whole, again))
    assert first.keys() == second.keys()
    for name, expected in first.items():
        assert torch.equal(second[name], expected), name
    assert all(t.isfinite().all() for t in whole.model.state_dict().values())


@pytest.fixture(scope="module")
def reasons(images):
    return catalogue.reasons(images)


@every_word
def test_a_word_stacks_or_says_why_not(group, word, reasons):
    """An accepted stack that differs from the separate runs raises in the fixture."""
    reason = reasons[group, word]
    absent = "not tried" in reason and word in DOWNLOADED
    assert reason == "" or "does not stack" in reason or absent


def test_the_page_is_up_to_date(reasons):
    def told(page):
        """The lines of a page, without what a machine that lacks the data cannot say."""
        lines = page.splitlines()
        far = {f"| `{word}` |" for word in DOWNLOADED}
        return [line for line in lines if not any(map(line.startswith, far))]

    expected = catalogue.page(reasons)
    assert told(catalogue.PAGE.read_text()) == told(expected), "run scripts/build_catalogue.py"


# refused with a reason: instance norm has nothing to average over in a layer of an MLP
REFUSED = {
    ("activation", "norm"): {(word, "instance") for word in words.groups()["activation"]},
    ("norm", "optim"): {("instance", word) for word in words.groups()["optim"]},
}
# grows without bound from weights of std 1: a non-finite loss that is told with what to type
DIVERGE = {("activation", "init"): {("relu_squared", "unit_gaussian")}}
PAIRS = [("activation", "norm"), ("activation", "init"), ("norm", "optim"), ("optim", "schedule")]


@pytest.mark.parametrize("pair", PAIRS, ids=[" x ".join(pair) for pair in PAIRS])
def test_every_pair_takes_five_steps_or_is_refused_with_a_reason(pair, images):
    """On the MLP, at every word's own defaults."""
    base = catalogue.bench_of(*catalogue.PLAIN)
    nodes = {
        (group, word): catalogue.bench_of(
            *(line for line in catalogue.PLAIN if not line.startswith(f"{group}=")),
            f"{group}={word}",
        ).cfg[group]
        for group in pair
        for word in words.groups()[group]
    }
    refused, diverged = set(), set()
    for (one, first), node in nodes.items():
        for (other, second), another in nodes.items():
            if (one, other) != pair:
                continue
            base.cfg[one], base.cfg[other] = node, another
            try:
                trainer = base.fresh()
                for step in range(5):
                    trainer.step(*trainer.batches(step))
                checkpoint.state_of(trainer)
            except ConfigError as error:
                assert len(str(error)) > 20
                refused.add((first, second))
            except NonFiniteError as error:
                assert "it must stay finite; try" in str(error)
                diverged.add((first, second))
    assert refused == REFUSED.get(pair, set())
    assert diverged == DIVERGE.get(pair, set())


# recipes that must halve the loss in 100 steps on 256 digits
HEALTHY = {
    "the defaults": [],
    "elu, adam": ["activation=elu", "optim=adam"],
    "gelu, layer norm, adamw": ["activation=gelu", "norm=layer", "optim=adamw"],
    "silu, rms norm, nadam": ["activation=silu", "norm=rms", "optim=nadam"],
    "tanh, xavier, nesterov": ["activation=tanh", "init=xavier_normal", "optim=nesterov"],
    "selu, lecun, momentum": ["activation=selu", "init=lecun_normal"],
    "relu, orthogonal, rmsprop": ["init=orthogonal", "optim=rmsprop"],
    "relu, batch norm, sgd": ["norm=batch", "optim=sgd"],
    "maxout, lsuv, momentum": ["activation=maxout", "init=lsuv"],
    "leaky relu, weight norm, amsgrad": [
        "activation=leaky_relu", "norm=weight", "optim=amsgrad", "optim.lr=0.003",
    ],
    "relu, muon, warm-up and decay": ["optim=muon", "schedule=warmup_stable_decay"],
    "mish, group norm, radam": ["activation=mish", "norm=group", "optim=radam", "optim.lr=0.003"],
    "squared hinge, adam": ["loss=squared_hinge", "optim=adam"],
    "lbfgs on everything": ["optim=lbfgs", "batch_size=full"],
}  # fmt: skip


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_recipe_halves_the_loss_in_100_steps_on_256_digits(name):
    recipe = ["data.train_size=256", "max_steps=100", "preflight=none", "probe=none"]
    bench = catalogue.bench_of(*recipe, *HEALTHY[name])
    trainer, train = bench.fresh(), bench.in_order(bench.splits.train)
    first = trainer.evaluate(train)
    while not trainer.ended():
        trainer.step(*trainer.batches(trainer.step_count))
    assert trainer.evaluate(train)["loss"] < first["loss"] / 2
