"""The house keeps its order: who imports whom, what may import what, how large things are."""

import ast
import io
import subprocess
import sys
import tokenize
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "trainlab"
FILES = sorted(PACKAGE.rglob("*.py"))
# a room imports only rows below it, and its own row
ROWS = [
    ("__main__", "_plugins", "command", "multirun", "resume", "compare"),
    ("sweep", "lecture"),
    ("story", "finished", "battery", "keeper", "regular", "lr_range", "teaching"),
    ("report", "checks", "doctor", "faults"),
    ("nn", "optim", "probes"),
    ("train", "stack", "world", "taps", "log", "durable", "checkpoint", "restore", "rundir",
     "build", "spine", "errors", "data", "show", "words", "slips", "fixes", "speed", "charts",
     "pictures", "measure", "hparams"),
]  # fmt: skip
ROOMS = {
    "doctor": ["probe=none"],
    "checks": ["preflight=none"],
    "probes": ["probe=none"],
}  # can be deleted; how a run does without


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
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return frozenset(names)


def rooms_used(path: Path) -> set[str]:
    return {n.split(".")[1] for n in imports(path) if n.startswith("trainlab.")} - {
        "__version__",
        room(path),
    }


def row(name: str) -> int:
    return next(i for i, names in enumerate(ROWS) if name in names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_rows_below_it(path):
    if path == PACKAGE / "__init__.py":
        return  # the three public functions, each lazily
    for used in rooms_used(path):
        assert row(used) >= row(room(path)), f"{room(path)} must not import {used}"


def test_no_circles():
    graph: dict[str, set[str]] = {}
    for path in FILES:
        if path != PACKAGE / "__init__.py":
            graph.setdefault(room(path), set()).update(rooms_used(path))

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        for used in graph.get(name, ()):
            visit(used, (*above, name))

    for name in graph:
        visit(name, ())


ONLY = {
    "hydra": {"__main__", "_plugins", "command", "multirun", "build", "sweep"},
    "torch.distributed": {"world"},
    "torch.func": {"stack"},
    "torch.overrides": {"taps"},
    "tensorboard": {"log", "hparams"},
    "pickle": set(),
}


@pytest.mark.parametrize("name", ONLY)
def test_only_its_room_imports(name):
    for path in FILES:
        if any(n == name or n.startswith(f"{name}.") for n in imports(path)):
            assert room(path) in ONLY[name], f"{path} imports {name}"


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


def test_hooks_only_in_taps():
    for path in FILES:
        assert "register_forward" not in path.read_text() or room(path) == "taps", path


def test_sizes():
    lengths = sorted(len(path.read_text().splitlines()) for path in FILES)
    assert lengths[-1] <= 300
    assert lengths[len(lengths) // 2] <= 120
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}:{node.lineno} {node.name}"


def test_names():
    for path in FILES:
        assert not set(path.stem.split("_")) & {
            "utils",
            "common",
            "helpers",
            "manager",
            "handler",
            "engine",
        }


def test_files_named_by_conf_say_so():
    for folder in ("nn", "optim", "probes", "checks", "faults"):
        for path in (PACKAGE / folder).glob("*.py"):
            doc = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split())
            named = any(
                f"trainlab.{folder}.{path.stem}." in y.read_text()
                for y in (ROOT / "conf").rglob("*.yaml")
            )
            assert not named or "Named by conf/" in doc, (
                f"{path}: its first lines do not say who names it"
            )


CORE = """
import sys
from trainlab.__main__ import main
words = ["preflight=none", "probe=none", "max_steps=3", "quiet=true", "hydra.run.dir=run"]
code = main(words)
names = [name for name in sys.modules if name.split(".")[0] == "trainlab"]
print(code, *{f for name in names if (f := getattr(sys.modules[name], "__file__", None))})
"""


def run_python(code: str, cwd: Path, home: Path = ROOT) -> list[str]:
    """The output of a fresh interpreter that finds the package in `home`."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(home)!r})\n" + code],
        cwd=cwd, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def code_lines(path: Path) -> int:
    """Lines that hold code: neither blank nor comment nor docstring."""
    source = path.read_text()
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING):
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def test_the_core_is_small(tmp_path):
    """What one run touches without checks and probes: at most 25 files, 2,500 lines of code."""
    code, *files = run_python(CORE, tmp_path)
    lengths = [n for n in map(code_lines, map(Path, files)) if n]
    assert code == "0"
    assert len(lengths) <= 25
    assert sum(lengths) <= 2500


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_can_be_deleted(tmp_path, name):
    import shutil

    shutil.copytree(
        PACKAGE, tmp_path / "trainlab", ignore=shutil.ignore_patterns(name, "__pycache__")
    )
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    words = [*ROOMS[name], "max_steps=3", "quiet=true", "hydra.run.dir=run"]
    code = "import trainlab; from trainlab.__main__ import main\n"
    code += f"print(main({words!r}), trainlab.__file__)"
    result, where = run_python(code, tmp_path, tmp_path)
    assert result == "0"
    assert where.startswith(str(tmp_path))


def test_import_is_light():
    """`import trainlab` imports neither torch nor hydra."""
    code = "import trainlab, sys; print({'torch', 'hydra', 'numpy', 'rich'} & set(sys.modules))"
    assert run_python(code, ROOT) == ["set()"]
