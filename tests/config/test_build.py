"""The door: what may be named in a config, and how what is named is built."""

import functools
import sys
import textwrap

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import nn

from trainlab.config.build import Door
from trainlab.errors import ConfigError

DANGEROUS = [
    "os.system",
    "logging.os.system",
    "builtins.eval",
    "subprocess.run",
    "torch.load",
    "numpy.load",
    "joblib.load",
    "torch.hub.load",
    "pathlib.Path.touch",
    "importlib.import_module",
    # they start with the name of an allowed package
    "torch.nn.functional.importlib.import_module",
    "torch.nn.modules.module.torch.load",
    "torch.nn.functional.torch.os.system",
    "torch.nn.functional.torch.nn.ReLU",  # allowed in the end, but by way of a module outside
    "torch.optim.optimizer.functools.partial",
    "torch.nn.modules.module.namedtuple",
    "torch.nn.functional.Callable",
    "torch.nn.functional.math.exp",
    "trainlab.data.sources.Path",
    "trainlab.data.sources.os.system",
    "trainlab.experiment.phases.json.loads",
    "trainlab.experiment.phases.checkpoint.save",
    "torch.nn.Module.__init__.__globals__",
    "torch.nn.Linear.__class__",
    "torch.nn._reduction.warnings.warn",
    "torch.nnx.Evil",
    "trainlab.nnevil.Evil",
    "trainlab_evil.Evil",
    "canary.fire",
    "torch.nn",
    "torch.nn.functional",
    "torch.nn.modules.module.T_destination",
    "",
    "relu",
    None,
    3,
    ["torch.nn.ReLU"],
]
PLACES = {
    "itself": lambda t: {"_target_": t},
    "partial": lambda t: {"_target_": t, "_partial_": True},
    "argument": lambda t: {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": t}]},
    "list": lambda t: {"_target_": "torch.nn.ReLU", "inplace": [[1, {"a": {"_target_": t}}]]},
    "keyword": lambda t: {"_target_": "torch.nn.ReLU", "inplace": {"_target_": t}},
}


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A module that tells when it is imported."""
    source = "from pathlib import Path\nPath(__file__).with_suffix('.sung').touch()\n"
    source += "def fire(*a, **k): pass\n"
    source += "class Act:\n    def __init__(self, alpha=1.0): self.alpha = alpha\n"
    for name in ("canary", "trainlab_evil", "mypkg"):
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda name: (tmp_path / f"{name}.sung").exists()
    for name in ("canary", "trainlab_evil", "mypkg"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("target", DANGEROUS, ids=str)
def test_dangerous_targets_are_refused_and_not_imported(target, place, canary, monkeypatch):
    for name in ("joblib", "subprocess_canary"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    before = set(sys.modules)
    with pytest.raises(ConfigError):
        Door()(OmegaConf.create({"part": PLACES[place](target)}).part)
    new = {
        name for name in set(sys.modules) - before if not name.startswith(("torch", "trainlab."))
    }
    assert not canary("canary")
    assert not canary("trainlab_evil")
    assert not new & {"canary", "trainlab_evil", "joblib", "torch.hub"}


def test_an_interpolation_is_resolved_before_it_is_judged():
    cfg = OmegaConf.create(
        {"name": "os.system", "part": {"_target_": "${name}", "command": "true"}}
    )
    with pytest.raises(ConfigError, match=r"part\._target_ = os\.system"):
        Door()(cfg.part)


def test_nothing_is_imported_while_one_part_is_refused(canary):
    node = {"_target_": "mypkg.Act", "alpha": [{"_target_": "os.system"}]}
    with pytest.raises(ConfigError, match="os.system"):
        Door(trust=["mypkg"])(node)
    assert not canary("mypkg")


def test_a_trusted_package_is_admitted_and_only_that(canary):
    assert Door(trust=["mypkg"])({"_target_": "mypkg.Act", "alpha": 2}).alpha == 2
    with pytest.raises(ConfigError):
        Door(trust=["mypkg"])({"_target_": "mypkg.Path.touch"})
    with pytest.raises(ConfigError):
        Door(trust=["mypkg"])({"_target_": "canary.fire"})
    with pytest.raises(ConfigError, match="nosuchpkg"):
        Door(trust=["nosuchpkg"])({"_target_": "nosuchpkg.Act"})


@pytest.mark.parametrize(
    "target",
    [
        "torch.nn.ReLU",
        "torch.nn.functional.gelu",
        "torch.nn.functional.conv2d",
        "torch.nn.functional.cross_entropy",
        "torch.nn.functional.max_pool2d",
        "torch.nn.init.kaiming_normal_",
        "torch.nn.utils.parametrizations.weight_norm",
        "torch.optim.AdamW",
        "torch.optim.lr_scheduler.StepLR",
        "trainlab.nn.norm.batch",
    ],
)
def test_what_it_is_for_is_admitted(target):
    made = Door()({"_target_": target, "_partial_": True})
    assert isinstance(made, functools.partial)


def test_a_partial_is_plain_and_builds_anew_each_time():
    make = Door()({"_target_": "torch.nn.ELU", "_partial_": True, "alpha": 2.0})
    assert make.func is nn.ELU
    assert make.keywords == {"alpha": 2.0}
    assert make() is not make()
    loss = Door()({"_target_": "torch.nn.functional.cross_entropy", "_partial_": True})
    assert type(loss) is functools.partial
    assert loss.func is F.cross_entropy


def test_parts_are_plain_containers_and_nested_nodes_are_built():
    cfg = OmegaConf.create({"p": {"_target_": "torch.nn.Sequential", "_args_": [
        {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2},
        {"_target_": "torch.nn.ELU", "alpha": "${a}"},
    ]}, "a": 0.5})  # fmt: skip
    net = Door()(cfg.p)
    assert net(torch.zeros(1, 3)).shape == (1, 2)
    assert net[1].alpha == 0.5
    make = Door()(
        OmegaConf.create({"_target_": "torch.optim.Adam", "_partial_": True, "betas": [0.5, 0.9]})
    )
    assert type(make.keywords["betas"]) is list
    known = Door()({"_target_": "torch.nn.Linear", "in_features": 3}, out_features=5)
    assert known.out_features == 5


@pytest.mark.parametrize(
    ("node", "says"),
    [
        (
            {"_target_": "torch.nn.ELU", "alpah": 2.0},
            r"part\.alpah = 2\.0.*did you mean part\.alpha",
        ),
        ({"_target_": "torch.nn.Linear", "in_features": 2}, "out_features"),
        ({"_target_": "torch.nn.ELU", "_args_": [1, False, 3]}, "too many"),
        ({"_target_": "torch.nn.ELU", "_args_": 3}, "must be a list"),
        ({"_target_": "torch.nn.ELU", "_partial_": "yes"}, "true or false"),
        ({"_target_": "torch.nn.ELU", "_convert_": "all"}, "_convert_"),
        ({"_target_": "torch.nn.EULA"}, "no EULA|EULA"),
        ({"_target_": "torch.nn.Dropout", "p": 7}, r"part\.p = 7.*between 0 and 1"),
        ({"alpha": 1}, "no _target_"),
    ],
)
def test_a_node_that_does_not_fit_is_one_line(node, says):
    with pytest.raises(ConfigError, match=says) as caught:
        Door()(OmegaConf.create({"part": node}).part)
    assert str(caught.value).startswith("part")


def test_torchs_own_refusal_of_a_partial_names_the_key():
    make = Door()(
        OmegaConf.create(
            {"optim": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": -1.0}}
        ).optim
    )
    with pytest.raises(ConfigError, match=r"^optim\.lr = -1\.0"):
        make([torch.zeros(1, requires_grad=True)])


def test_a_fault_inside_a_function_is_not_called_a_config_error(tmp_path, monkeypatch):
    (tmp_path / "faulty.py").write_text(
        textwrap.dedent("""
        def broken():
            raise ValueError("a fault of the program")
    """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="fault of the program"):
        Door(trust=["faulty"])({"_target_": "faulty.broken"})


@pytest.mark.parametrize("node", [None, 3, "torch.nn.ReLU", [], {}])
def test_what_is_no_node_is_refused(node):
    with pytest.raises(ConfigError):
        Door()(node)
