"""The house keeps its order: who imports whom, what may import what, which rooms can be deleted."""

import ast
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "trainlab"
FILES = sorted(PACKAGE.rglob("*.py"))
# a room imports only rooms below it; those of one row do not import each other
ROWS = [
    ("__main__", "_plugins"),
    ("cli",),
    ("sweeps",),
    ("experiment",),
    ("checks", "faults"),
    ("doctor",),
    ("nn", "optim", "probes", "data"),
    ("observe",),
    ("storage",),
    ("stack",),
    ("config",),
    ("training",),
    ("errors",),
]
DELETABLE = {
    "doctor": ["probe=none"],
    "checks": ["preflight=none"],
    "probes": ["probe=none"],
    "faults": [],
    "sweeps": [],
    "stack": [],
}  # room -> how a run does without


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def imports(path: Path) -> frozenset[str]:
    """Dotted names imported anywhere in a file, lazily or not."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


@cache
def files_used(path: Path) -> frozenset[Path]:
    """The files of the package that a file imports."""
    found = set()
    for name in imports(path):
        if name == "trainlab" or not name.startswith("trainlab."):
            continue
        steps = name.split(".")[1:]
        places = [PACKAGE.joinpath(*some) for some in (steps, steps[:-1])]  # a module, or in one
        named = [[p.with_suffix(".py"), p / "__init__.py"] for p in places]
        found.add(next(path for path in (*named[0], *named[1]) if path.exists()))
    return frozenset(found - {path, PACKAGE / "__init__.py"})


def row(name: str) -> int:
    return next(i for i, names in enumerate(ROWS) if name in names)


def test_the_root_holds_the_door_and_the_errors():
    assert {p.stem for p in PACKAGE.glob("*.py")} == {"__init__", "__main__", "errors"}
    assert {p.name for p in PACKAGE.iterdir() if any(p.glob("**/*.py"))} == {
        name for names in ROWS for name in names
    } - {"__main__", "errors"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_rooms_below_it(path):
    if path == PACKAGE / "__init__.py":
        return  # the public functions, each lazily
    for used in files_used(path):
        if room(used) != room(path):
            assert row(room(used)) > row(room(path)), f"{path} must not import {used}"


def test_no_circle_of_files():
    done: set[Path] = set()

    def visit(path: Path, above: tuple[Path, ...]) -> None:
        assert path not in above, " -> ".join(str(p.relative_to(PACKAGE)) for p in (*above, path))
        if path not in done:
            for used in files_used(path):
                visit(used, (*above, path))
            done.add(path)

    for path in FILES:
        if path != PACKAGE / "__init__.py":  # the public functions, each lazily
            visit(path, ())


ONLY = {
    "hydra": ("__main__.py", "_plugins/", "cli/", "config/", "sweeps/"),
    "torch.distributed": ("training/distributed.py",),
    "torch.func": ("stack/",),
    "torch.overrides": ("observe/capture.py",),
    "tensorboard": ("observe/",),
    "pickle": (),
}


def inside(path: Path, places: tuple[str, ...]) -> bool:
    return str(path.relative_to(PACKAGE)).startswith(places)


@pytest.mark.parametrize("name", ONLY)
def test_only_its_rooms_import(name):
    for path in FILES:
        if any(n == name or n.startswith(f"{name}.") for n in imports(path)):
            assert inside(path, ONLY[name]), f"{path} imports {name}"


def test_hooks_only_where_things_are_seen():
    for path in FILES:
        assert "register_forward" not in path.read_text() or inside(path, ("observe/",)), path


BANNED = ("torch.load", "allow_pickle=True", "yaml.load(", "pickle.load", "assert ")


@pytest.mark.parametrize("text", BANNED)
def test_banned_text(text):
    for path in FILES:
        lines = [
            line
            for line in path.read_text().splitlines()
            if line.strip().startswith(text) or text != "assert "
        ]
        assert not any(text in line.split("#")[0] and '"""' not in line for line in lines), (
            f"{path}: {text}"
        )


def test_names():
    vague = {"utils", "common", "helpers", "manager", "handler", "engine"}
    for path in FILES:
        assert not set(path.stem.split("_")) & vague, path


def test_files_named_by_conf_say_so():
    for folder in ("nn", "optim", "probes", "checks", "faults", "doctor/rules"):
        for path in (PACKAGE / folder).glob("*.py"):
            doc = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split())
            named = any(
                f"trainlab.{folder.replace('/', '.')}.{path.stem}." in y.read_text()
                for y in (ROOT / "conf").rglob("*.yaml")
            )
            assert not named or "Named by conf/" in doc, (
                f"{path}: its first lines do not say who names it"
            )


def run_python(code: str, cwd: Path, home: Path = ROOT) -> list[str]:
    """The output of a fresh interpreter that finds the package in `home`."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(home)!r})\n" + code],
        cwd=cwd, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


FACE = """
import importlib, pkgutil, torch, trainlab
skipped = "trainlab._plugins", "trainlab.sweeps.search.samplers.optuna"  # Hydra's; an extra
for module in pkgutil.walk_packages(trainlab.__path__, "trainlab."):
    if not module.name.startswith(skipped):
        importlib.import_module(module.name)
model, loss = torch.nn.Linear(3, 2), torch.nn.functional.cross_entropy
batch = torch.randn(8, 3), torch.arange(8) % 2
for i in range(2):
    folder = trainlab.run("max_steps=3", "quiet=true", f"hydra.run.dir=run{i}")["directory"]
    trainlab.load(folder)
    trainlab.examine(folder)
    trainlab.check(model, loss, torch.optim.SGD(model.parameters(), lr=0.1), batch)
print("done")
"""


def test_no_room_takes_the_place_of_a_public_function(tmp_path):
    """`trainlab.run` stays a function once every module is imported, and on a second call."""
    assert run_python(FACE, tmp_path)[-1] == "done"


@pytest.mark.parametrize("name", DELETABLE)
def test_a_room_can_be_deleted(tmp_path, name):
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "trainlab", ignore=without)
    shutil.rmtree(tmp_path / "trainlab" / name)
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    words = [*DELETABLE[name], "max_steps=3", "quiet=true", "hydra.run.dir=run"]
    code = "import trainlab; from trainlab.__main__ import main\n"
    code += f"print(main({words!r}), trainlab.__file__)"
    result, where = run_python(code, tmp_path, tmp_path)
    assert result == "0"
    assert where.startswith(str(tmp_path))


def test_import_is_light():
    """`import trainlab` imports neither torch nor hydra."""
    code = "import trainlab, sys; print({'torch', 'hydra', 'numpy', 'rich'} & set(sys.modules))"
    assert run_python(code, ROOT) == ["set()"]
