"""A stack equals separate runs in float64, metrics included, over the catalogue."""

import pytest
import torch
from benches import bench_of
from stacking import LRS, SEEDS, compare, single, typed

from trainlab.config import words
from trainlab.errors import ConfigError
from trainlab.stack import Stack
from trainlab.training.trainer import Every, Watch

CNN = ["model=cnn", "model.channels=[4,6]"]
NORMS = ["none", "batch", "layer", "group", "instance", "rms", "weight"]
OPTIMIZERS = [
    "sgd", "momentum", "nesterov", "rmsprop", "adam", "amsgrad", "adamw", "nadam", "radam",
    "adamax", "adagrad", "adadelta", "momentum_ema", "rmsprop_momentum",
]  # fmt: skip
LEARNED = "maxout", "prelu", "rrelu"
OURS = "sgd", "momentum", "nesterov", "adam", "amsgrad", "adamw"


def runs(lr: float = 1.0, **own) -> list[dict]:
    """Four runs: seeds, lrs up to 2 lr, and for each further key four values."""
    keys = {"seed": SEEDS, "optim.lr": [lr * each for each in LRS]} | own
    return [dict(zip(keys, values, strict=True)) for values in zip(*keys.values(), strict=True)]


def check(steps: int, overrides: list[str], owns: list[dict]):
    every = Every(log=max(steps // 4, 1), evaluate=max(steps // 2, 1))
    return compare(bench_of(*typed(*overrides, f"max_steps={steps}", "epochs=100")), owns, every)


def steps(quick: int = 10):
    """The quick suite takes few steps, the long form 100."""
    return pytest.mark.parametrize("steps", [quick, pytest.param(100, marks=pytest.mark.long)])


@steps()
@pytest.mark.parametrize("word", words.groups()["activation"])
def test_every_activation(word, steps):
    check(steps, [f"activation={word}", "model.dropout=0.2"], runs(0.1))


@steps()
@pytest.mark.parametrize("word", [w for w in NORMS if w != "instance"])
def test_every_norm_of_a_layer(word, steps):
    check(
        steps,
        [f"norm={word}", "model.widths=[32,24]", *(["norm.groups=4"] * (word == "group"))],
        runs(**{"optim.weight_decay": [0, 0.01, 0.1, 0]}),
    )


@steps(6)
@pytest.mark.parametrize(
    "activation", ["elu", *(pytest.param(w, marks=pytest.mark.long) for w in LEARNED)]
)
@pytest.mark.parametrize("word", NORMS)
def test_every_norm_of_a_convolution(word, activation, steps):
    groups = ["norm.groups=2"] if word == "group" else []
    check(steps, [*CNN, f"norm={word}", f"activation={activation}", *groups], runs(0.3))


@steps()
@pytest.mark.parametrize("word", OPTIMIZERS)
def test_every_optimizer(word, steps):
    lr = {"sgd": 1.0, "adadelta": 1.0, "momentum_ema": 1.0, "rmsprop_momentum": 0.003}.get(
        word, 0.03
    )
    own = {"optim.weight_decay": [0.0, 0.1, 0.01, 0.0]}
    if word in OURS[3:]:
        own |= {"optim.betas": [[0.9, 0.999], [0.8, 0.9], [0.5, 0.99], [0.9, 0.9]],
                "optim.eps": [1e-8, 1e-3, 1e-8, 1e-5]}  # fmt: skip
    if word in OURS[1:3]:
        own |= {"optim.momentum": [0.9, 0.5, 0.99, 0.1]}
    # a pixel that a whole batch shares has no gradient but noise behind batch norm, and those that
    # divide by its size step by 1
    norm = "batch" if word in (*OURS[:3], "momentum_ema") else "layer"
    check(steps, [f"optim={word}", f"norm={norm}"], runs(lr, **own))


@steps()
@pytest.mark.parametrize("word", [word for word in OPTIMIZERS if word not in OURS[:3]])
def test_every_adaptive_optimizer_behind_batch_norm(word, steps):
    """On wine, none of whose 13 measurements is the same in a whole batch."""
    lr = {"adadelta": 1.0, "momentum_ema": 1.0, "rmsprop_momentum": 0.003}.get(word, 0.03)
    table = ["data=wine", "data.train_size=100", "activation=tanh"]
    check(steps, [f"optim={word}", "norm=batch", *table], runs(lr))


@steps()
@pytest.mark.parametrize("word", words.groups()["schedule"])
def test_every_schedule_with_a_warm_up_of_each_run(word, steps):
    own = {} if word == "plateau" else {"schedule.warmup": [0.0, 0.2, 0.4, 0.1]}
    if word == "plateau":
        own = {"schedule.patience": [0, 1, 2, 0], "schedule.factor": [0.5, 0.1, 0.2, 0.3]}
    check(steps, [f"schedule={word}"], runs(**own))


@steps()
@pytest.mark.parametrize("word", words.groups()["loss"])
def test_every_loss_with_its_own_key(word, steps):
    keys = {"cross_entropy": "label_smoothing", "focal": "gamma", "hinge": "margin"}
    key = keys.get(word.removeprefix("squared_"))
    own = {f"loss.{key}": [0.1, 0.0, 0.3, 0.2]} if key else {}
    if word == "focal":
        own["loss.gamma"] = [2.0, 1.0, 3.0, 2.5]
    check(steps, [f"loss={word}"], runs(0.1, **own))


MORE = {
    "dropout": ([], {"model.dropout": [0.5, 0.1, 0.3, 0.2]}),
    "clip by norm": ([], {"clip.norm": [0.5, 0.1, 2.0, 0.5]}),
    "clip by value": ([], {"clip.value": [0.05, 0.01, 2.0, 0.05]}),
    "adaptive clip": ([], {"clip.adaptive": [0.05, 0.01, 0.2, 0.05]}),
    "penalties": ([], {"penalty.l1": [1e-3, 0.0, 1e-2, 0.0], "penalty.l2": [0.0, 0.1, 0.1, 1e-3]}),
    "max norm": ([], {"constraint.max_norm": [1.0, 0.5, 2.0, 1.0]}),
    "init scale": ([], {"init.gain": [1.0, 0.5, 2.0, 0.1]}),
    "groups": (["groups.lr=[head*:10]", "optim.weight_decay=0.01"], {}),
    "frozen": (["groups.freeze=[hidden1*]", "norm=batch"], {}),
    "accumulate": (["accumulate=3", "norm=batch"], {}),
    "average": (["average.ema=0.9", "norm=batch"], {}),
    "smooth": (["log.smooth=0.9"], {}),
    "shifted images": (["augment=shift"], {}),
    "sorted": (["data.order=sorted"], {}),
    "dropout behind maps": ([*CNN, "model.dropout=0.3", "norm=batch"], {}),
}


@steps()
@pytest.mark.parametrize("name", MORE)
def test_what_else_each_run_may_have_of_its_own(name, steps):
    overrides, own = MORE[name]
    check(steps, overrides, runs(**own))


@steps(4)
@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize(
    "model",
    [["vgg_small", "model.channels=[4,4]"], ["residual_mlp", "model.widths=[8,8]"], ["linear"],
     ["residual_mlp", "model.widths=[8,6]", "model.drop_path=0.5", "model.dropout=0.2"]],
    ids=["vgg_small", "residual_mlp", "linear", "drop_path"],
)  # fmt: skip
def test_other_models(model, norm, steps):
    check(steps, [f"model={model[0]}", *model[1:], f"norm={norm}"], runs(0.3))


@pytest.mark.parametrize("model", ["resnet20", pytest.param("resnet18", marks=pytest.mark.long)])
def test_residual_networks_of_images(model):
    few = ["norm=batch", "batch_size=8", "data.train_size=16", "model.drop_path=0.2"]
    check(1, [f"model={model}", *few], runs(0.1)[:2])


REFUSED = {
    "optim.alpha": (["optim=rmsprop"], {"optim.alpha": [0.9, 0.8, 0.9, 0.9]}),
    "LBFGS does not stack": (["optim=lbfgs"], {"optim.lr": [1.0] * 4}),
    "Muon does not stack": (["optim=muon"], {}),
    "runs of a stack differ": ([], {"activation.negative_slope": [0.1, 0.2, 0.1, 0.1]}),
    "steps: differs": ([], {"max_steps": [2, 3, 2, 2]}),
    "channels_last": (["channels_last=true"], {}),
    "clip: some runs": ([], {"clip.norm": [0.5, None, 0.5, 0.5]}),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_does_not_stack_is_refused_with_the_reason(words):
    overrides, own = REFUSED[words]
    if "activation.negative_slope" in own:
        overrides = ["activation=leaky_relu"]
    with pytest.raises(ConfigError, match=words):
        check(2, overrides, runs(**own))


RECIPES = [
    (activation, norm, optim)
    for activation in ("relu", "elu", "tanh", "gelu", "maxout")
    for norm in ("none", "batch", "layer")
    for optim in ("momentum", "adam")
]


@pytest.mark.long
def test_in_float32_accuracies_differ_by_less_than_seeds_do():
    """30 recipes, 4 seeds each, 450 steps: means of the paired differences against the spread over
    seeds."""
    differences, spreads = [], []
    for activation, norm, optim in RECIPES:
        words = [f"activation={activation}", f"norm={norm}", f"optim={optim}", "max_steps=450"]
        bench = bench_of(*typed(*words, "epochs=100", "data.train_size=600", "model.dropout=0.1"))
        group = Stack([single(bench, {"seed": s}, torch.float32) for s in range(4)], range(4))
        group.trainer.fit(Every(log=50), Watch())
        mine = group.trainer.evaluate(group.trainer.validation)["accuracy"]
        alone = torch.zeros(4, dtype=torch.float64)
        for seed in range(4):
            trainer = single(bench, {"seed": seed}, torch.float32)
            trainer.fit(Every(log=50), Watch())
            alone[seed] = trainer.evaluate(trainer.validation)["accuracy"]
        differences.append(mine - alone)
        spreads.append(alone.std())
    difference, spread = torch.stack(differences), torch.stack(spreads).square().mean().sqrt()
    print(f"mean {difference.mean():.5f}, std {difference.std():.5f}, over seeds {spread:.5f}")
    assert len(RECIPES) == 30
    assert abs(difference.mean()) <= 2 * spread / difference.numel() ** 0.5
    assert difference.std() <= spread
