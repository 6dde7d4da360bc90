"""What trainlab uses of hydra, omegaconf and torch without their promise to keep it: all of it is
listed here, and a version that moves one of these fails here by its name, with the file to mend."""

import ast
import copy
import re
from collections.abc import Callable, Iterator
from importlib import util
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

PACKAGE = Path(__file__).resolve().parents[1] / "trainlab"


def callbacks() -> None:
    from hydra._internal.callbacks import Callbacks

    made = Callbacks()
    assert callable(made.on_job_start) and callable(made.on_job_end)


def main_class() -> None:
    from hydra._internal.hydra import Hydra

    for name in (
        "create_main_hydra2", "compose_config", "multirun", "show_info", "show_cfg", "hydra_help",
        "shell_completion",
    ):  # fmt: skip
        getattr(Hydra, name)


def search_path() -> None:
    from hydra._internal.utils import create_config_search_path

    made = create_config_search_path("somewhere")
    made.prepend("command-line", "file:///first")
    places = [each.path for each in made.get_path()]
    assert places.index("file:///first") < places.index("somewhere")


def flags() -> None:
    from hydra._internal.utils import get_args_parser

    args = vars(get_args_parser().parse_args(["-m", "a=1"]))
    names = {
        "cfg", "config_dir", "config_name", "config_path", "experimental_rerun", "help",
        "hydra_help", "info", "multirun", "overrides", "package", "resolve", "shell_completion",
    }  # fmt: skip
    assert names <= set(args) and args["multirun"] and args["overrides"] == ["a=1"]


def parsed_value() -> None:
    from trainlab.sweeps.search.space import parsed, with_value

    override = OverridesParser.create().parse_override('a=["x y",1]')
    assert parsed(override) == [QuotedString("x y", Quote.double), 1]
    assert override.value() == ["x y", 1]
    assert with_value(override, 3).get_value_element_as_str() == "3"


def full_key() -> None:
    made = OmegaConf.create({"a": {"b": {"c": 1}}})
    assert made.a.b._get_full_key(None) == "a.b" and not made._get_full_key(None)


def dirichlet() -> None:
    rows = torch.full((5, 2), 0.3, dtype=torch.float64)
    first, again = (torch._sample_dirichlet(rows, torch.Generator().manual_seed(1)) for _ in "12")
    assert torch.equal(first, again) and torch.allclose(first.sum(1), torch.ones(5).double())


def weight_norm_class() -> None:
    from torch.nn.utils.parametrizations import _WeightNorm

    (own,) = weight_norm(nn.Linear(3, 2)).parametrizations.weight
    assert type(own) is _WeightNorm and own.dim == 0


def weight_norm_call() -> None:
    layer = weight_norm(nn.Linear(3, 2))
    held = layer.parametrizations.weight
    assert torch.equal(layer.weight, torch._weight_norm(held.original1, held.original0, 0))


def dynamo() -> None:
    assert util.find_spec("torch._dynamo") is not None


def home_of(function: Callable) -> str:
    return f"{function.__module__}.{function.__qualname__}".rpartition(".")[0]


def c_functions() -> None:
    assert home_of(F.gelu) == "torch._C._nn"


def c_class() -> None:
    assert home_of(F.conv2d) == "torch._VariableFunctionsClass"


def batch_norm() -> None:
    for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm):
        assert issubclass(kind, nn.modules.batchnorm._BatchNorm), kind


def norm_base() -> None:
    for kind in (nn.BatchNorm1d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d):
        assert issubclass(kind, nn.modules.batchnorm._NormBase), kind


def dropout() -> None:
    for kind in (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout):
        assert issubclass(kind, nn.modules.dropout._DropoutNd), kind


def changes_in_place() -> None:
    tensor = torch.zeros(2)
    assert tensor._version == 0
    assert tensor.add_(1)._version == 1 and tensor.clone()._version == 0


def compiled() -> None:
    layer = nn.Linear(2, 2)
    assert torch.compile(layer, backend="eager")._orig_mod is layer


class Counting(nn.Module):
    def get_extra_state(self) -> int:
        return 3


def extra_state() -> None:
    assert list(nn.Sequential(Counting()).state_dict()) == ["0._extra_state"]


def parameters() -> None:
    bare = nn.BatchNorm3d(2, affine=False, track_running_stats=False)
    assert bare._parameters == {"weight": None, "bias": None}


def buffers() -> None:
    assert "running_mean" in nn.BatchNorm3d(2, track_running_stats=False)._buffers


def modules() -> None:
    first = nn.Sequential(nn.ReLU(), nn.Tanh())
    other = copy.copy(first)
    other._modules = {"0": nn.Identity(), "1": first[1]}
    assert [type(m) for m in other.children()] == [nn.Identity, nn.Tanh]
    assert [type(m) for m in first.children()] == [nn.ReLU, nn.Tanh]


# name as it stands in the code -> where it is used, and what must hold of it
USES: dict[str, tuple[str, Callable[[], None]]] = {
    "hydra._internal.callbacks.Callbacks": ("cli/compose.py", callbacks),
    "hydra._internal.hydra.Hydra": ("cli/compose.py", main_class),
    "hydra._internal.utils.create_config_search_path": ("cli/compose.py", search_path),
    "hydra._internal.utils.get_args_parser": ("cli/compose.py", flags),
    "_value": ("sweeps/search/space.py", parsed_value),
    "_get_full_key": ("config/build.py", full_key),
    "torch._C._nn": ("config/build.py", c_functions),
    "torch._VariableFunctionsClass": ("config/build.py", c_class),
    "_sample_dirichlet": ("data/augment.py", dirichlet),
    "torch.nn.utils.parametrizations._WeightNorm": ("stack/layers.py", weight_norm_class),
    "_weight_norm": ("stack/stacked.py", weight_norm_call),
    "_parameters": ("stack/layers.py", parameters),
    "_buffers": ("stack/layers.py", buffers),
    "_modules": ("stack/layers.py", modules),
    "_extra_state": ("stack/state.py", extra_state),
    "torch._dynamo": ("__main__.py sweeps/execute/processes.py", dynamo),
    "_version": ("observe/capture.py", changes_in_place),
    "_orig_mod": ("observe/capture.py", compiled),
    "_BatchNorm": ("training/modules.py", batch_norm),
    "_NormBase": ("training/modules.py", norm_base),
    "_DropoutNd": ("training/modules.py", dropout),
}
FOREACH = re.compile(r"_foreach_\w+")  # torch's own optimizers are made of them: anywhere


def private_names(text: str) -> Iterator[str]:
    """What a file uses of other packages with an underscore before it: imports, attributes of
    anything but self, and names in quotes."""
    for node in ast.walk(ast.parse(text)):
        found = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls"):
            found = [node.attr]
        elif isinstance(node, ast.keyword) and node.arg:
            found = [node.arg]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            quoted = node.value in USES or re.fullmatch(
                r"(torch|hydra|omegaconf)\._[\w.]+", node.value
            )
            found = [node.value] if quoted else []
        for name in found:
            ours = name.startswith(("trainlab.", "__"))
            if not ours and any(step.startswith("_") for step in name.split(".")):
                yield name


def uses_found() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for name in private_names(path.read_text()):
            found.setdefault(name, set()).add(str(path.relative_to(PACKAGE)))
    return found


def test_all_that_is_private_is_listed_with_its_file():
    found = {name: files for name, files in uses_found().items() if not FOREACH.fullmatch(name)}
    listed = {name: set(files.split()) for name, (files, _) in USES.items()}
    more = {name: files - listed.get(name, set()) for name, files in found.items()}
    more = {name: files for name, files in more.items() if files}
    assert not more, f"private, and not in USES (is there a public way? else say why): {more}"
    assert found == listed, "USES lists what is used no more"


@pytest.mark.parametrize("name", USES)
def test_what_is_private_is_still_there(name):
    files, still_holds = USES[name]
    try:
        still_holds()
    except Exception as error:
        versions = ", ".join(
            f"{each} {version(each)}" for each in ("hydra-core", "omegaconf", "torch")
        )
        pytest.fail(
            f"{name} has moved or changed, and {files} of trainlab/ uses it, for the reason said "
            f"there ({versions}): {type(error).__name__}: {error}",
            pytrace=False,
        )


def test_torch_still_has_the_calls_on_lists_of_tensors():
    used = {name: files for name, files in uses_found().items() if FOREACH.fullmatch(name)}
    assert len(used) > 3
    gone = {name: files for name, files in used.items() if not hasattr(torch, name)}
    assert not gone, f"torch {torch.__version__} has moved these of trainlab/: {gone}"
