"""The one place where a config node becomes an object.

A `_target_` may name a class or function of the allowed packages. Checking the text of the path is
not enough (`torch.nn.functional.torch.os.system` starts with an allowed one), so every step is
checked: each module on the path must be allowed, and so must the module that defines the target.
"""

import difflib
import functools
import importlib
import inspect
import re
from collections.abc import Iterable, Mapping
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from trainlab.errors import ConfigError

ROOMS = "nn optim data probes checks faults experiment training.metrics"
OURS = tuple(f"trainlab.{room}" for room in ROOMS.split())
ALLOWED = ("torch.nn", "torch.optim", "torchvision.models", *OURS)
# where the C functions live that torch.nn.functional shows: gelu, conv2d, ... Their __module__ and
# __qualname__ name no public place
C_HOMES = ("torch._C._nn", "torch._VariableFunctionsClass")
PATH = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+")  # no part starts with an underscore


class Door:
    """`door(node)` builds the object that a config node names; `trust` allows the user's own
    packages.

    A node is a mapping with `_target_`, `_args_` (a list), `_partial_` (true gives a partial) and
    keywords, nested to any depth. The whole node is checked before anything is imported. Raises
    ConfigError for a target that is not allowed or not found, and for keywords it does not take.
    """

    def __init__(self, trust: Iterable[str] = ()):
        self.allowed = (*ALLOWED, *trust)

    def __call__(self, node: Any, **known: Any) -> Any:
        where = "config"
        if not isinstance(node, dict):
            from omegaconf import OmegaConf

            if OmegaConf.is_config(node):
                # private: omegaconf tells a node's own key nowhere else but in its errors
                where = node._get_full_key(None) or where
                node = OmegaConf.to_container(node, resolve=True)
        if not isinstance(node, dict) or "_target_" not in node:
            raise ConfigError(f"{where}: has no _target_; add one that names a class or function")
        self.inspect(node, where)
        return self._build(node, where, known)

    def inspect(self, node: Any, where: str) -> None:
        """Check the text of every `_target_` at any depth. Imports nothing."""
        if isinstance(node, list):
            for position, item in enumerate(node):
                self.inspect(item, f"{where}[{position}]")
        elif isinstance(node, Mapping):
            own = ("_target_", "_args_", "_partial_") if "_target_" in node else ()
            for name, value in node.items():
                key = f"{where}.{name}".lstrip(".")
                if str(name).startswith("_") and name not in own:
                    raise ConfigError(f"{key}: no such key; there are _target_, _args_, _partial_")
                if name == "_target_" and not (PATH.fullmatch(str(value)) and self._in(value)):
                    raise self._refused(key, value)
                if name == "_args_" and not isinstance(value, list):
                    raise ConfigError(f"{key} = {value}: must be a list")
                if name == "_partial_" and not isinstance(value, bool):
                    raise ConfigError(f"{key} = {value}: must be true or false")
                self.inspect(value, key)

    def _in(self, name: Any, more: tuple[str, ...] = ()) -> bool:
        """Whether a dotted name lies in an allowed package: torch.nn.x, not torch.nnx."""
        return any(f"{name}.".startswith(f"{package}.") for package in (*self.allowed, *more))

    def _refused(self, where: str, path: Any) -> ConfigError:
        return ConfigError(
            f"{where} = {path}: must be a class or function of {', '.join(self.allowed)}; "
            "allow a package of your own with trust=[package] on the command line"
        )

    def _build(self, node: Any, where: str, known: Mapping[str, Any]) -> Any:
        if isinstance(node, list):
            return [self._build(item, f"{where}[{i}]", {}) for i, item in enumerate(node)]
        if not isinstance(node, dict):
            return node
        inner = {k: self._build(v, f"{where}.{k}", {}) for k, v in node.items() if k != "_target_"}
        if "_target_" not in node:
            return inner
        target = self._find(node["_target_"], f"{where}._target_")
        args, partial = inner.pop("_args_", []), inner.pop("_partial_", False)
        keywords = inner | dict(known)
        _fits(target, args, keywords, where, partial)
        kind = _Class if isinstance(target, type) else functools.partial
        made = kind(target, *args, **keywords)
        made.where = where
        return made if partial else made()

    def _find(self, path: str, where: str) -> Any:
        """Import the allowed package the path starts with, then follow the path part by part."""
        package = max((p for p in self.allowed if f"{path}.".startswith(f"{p}.")), key=len)
        try:
            found = importlib.import_module(package)
            for step in path[len(package) :].split(".")[1:]:
                if isinstance(found, ModuleType) and not hasattr(found, step):
                    found = importlib.import_module(f"{found.__name__}.{step}")
                else:
                    found = getattr(found, step)
                if not self._admitted(found):
                    raise self._refused(where, path)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"{where} = {path}: {error}") from error
        if isinstance(found, ModuleType):
            raise ConfigError(f"{where} = {path}: is a module; name a class or function in it")
        return found

    def _admitted(self, found: Any) -> bool:
        """Whether it is a module, class or function that an allowed package defines."""
        if isinstance(found, ModuleType):
            return self._in(found.__name__)
        if isinstance(found, BuiltinFunctionType):
            return self._in(f"{found.__module__}.{found.__qualname__}", C_HOMES)
        return isinstance(found, type | FunctionType) and self._in(found.__module__)


class _Class(functools.partial):
    """A partial of a class that turns a TypeError or ValueError of the class into a ConfigError."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        except (TypeError, ValueError) as error:
            named = [(k, v) for k, v in self.keywords.items() if str(v) in str(error)]
            key = f"{self.where}.{named[0][0]} = {named[0][1]}" if named else self.where
            raise ConfigError(f"{key}: {self.func.__name__}: {error}") from error


def _fits(target: Any, args: list, keywords: Mapping[str, Any], where: str, partial: bool) -> None:
    """Raise ConfigError for a keyword that the target does not take, and for one it lacks."""
    try:
        signature = inspect.signature(target)
    except ValueError:  # C functions have none
        return
    names = signature.parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in names.values())
    for keyword in [] if open_ended else [k for k in keywords if k not in names]:
        near = difflib.get_close_matches(keyword, names, 1)
        hint = f"did you mean {where}.{near[0]}?" if near else f"takes {', '.join(names)}"
        text = f"{where}.{keyword} = {keywords[keyword]}: {target.__name__} has no {keyword}"
        raise ConfigError(f"{text}; {hint}")
    try:
        (signature.bind_partial if partial else signature.bind)(*args, **keywords)
    except TypeError as error:
        raise ConfigError(f"{where}: {target.__name__}: {error}") from error
