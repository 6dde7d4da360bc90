"""Keeps somebody's objects and puts them back in place, bit for bit."""

import functools
import inspect
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LARGE = 1_000_000  # elements: a tensor in a step function's reach that is larger is taken for data, and not copied


class Snapshot:
    """What is reachable from some objects through modules, optimizers, whatever has a state_dict,
    and containers.

    Kept are the objects themselves and their contents: tensors (data, .grad, requires_grad),
    attributes, items.
    """

    def __init__(self, *objects: Any):
        self.undo: list[Callable[[], Any]] = []
        self._seen: dict[int, Any] = {}
        for each in objects:
            self._keep(each)

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back. May be called again and again."""
        for undo in self.undo:
            undo()

    def _keep(self, value: Any) -> None:
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value  # alive, so that no other object gets its id
        if isinstance(value, Tensor):
            self._keep_tensor(value)
        elif isinstance(value, torch.Generator):
            self.undo.append(functools.partial(value.set_state, value.get_state()))
        elif isinstance(value, dict | set):
            kept = value.copy()
            self.undo += [value.clear, functools.partial(value.update, kept)]
            for item in value.values() if isinstance(value, dict) else ():
                self._keep(item)
        elif isinstance(value, list | deque):
            self.undo += [value.clear, functools.partial(value.extend, value.copy())]
            for item in value:
                self._keep(item)
        elif isinstance(value, tuple):
            for item in value:
                self._keep(item)
        elif has_state(value):
            self._keep(vars(value))

    def _keep_tensor(self, tensor: Tensor) -> None:
        data, kept = tensor.data, tensor.detach().clone()
        grad, trainable = (tensor.grad, tensor.requires_grad) if tensor.is_leaf else (None, None)
        if grad is not None:
            self._keep(grad)

        def undo() -> None:
            tensor.data = data
            data.copy_(kept)
            if trainable is not None:
                tensor.requires_grad_(trainable).grad = grad

        self.undo.append(undo)


def has_state(value: Any) -> bool:
    """Models, optimizers, learning-rate schedulers, gradient scalers: objects with a state_dict."""
    return (
        hasattr(value, "state_dict") and hasattr(value, "__dict__") and not isinstance(value, type)
    )


def parts(step: Callable) -> tuple[list[dict], Any, list[Any]]:
    """What a step function refers to: (attribute dicts of its own, its Python function or None, the
    values).

    The values are bound arguments, closure, globals it names, and attributes of the object it is a
    method of; one level deep, without what is too large to be anything but data.
    """
    if isinstance(step, functools.partial):
        spaces, function, values = parts(step.func)
        return spaces, function, [*step.args, *step.keywords.values(), *values]
    owner = getattr(step, "__self__", None if inspect.isfunction(step) else step)
    spaces = [
        vars(each)
        for each in (owner, step)
        if hasattr(each, "__dict__") and not inspect.ismethod(each)
    ]
    function = getattr(step, "__func__", step if inspect.isfunction(step) else type(step).__call__)
    values = [value for space in spaces for value in space.values()]
    if not inspect.isfunction(function):
        return spaces, None, values
    names = inspect.getclosurevars(function)
    values += [*names.nonlocals.values(), *names.globals.values()]
    return (
        spaces,
        function,
        [v for v in values if not (isinstance(v, Tensor) and v.numel() > LARGE)],
    )


def keep_step(step: Callable) -> Snapshot:
    """What a step function refers to, and the names that it rebinds (`nonlocal`, `global`,
    `self.calls += 1`).
    """
    spaces, function, values = parts(step)
    snapshot = Snapshot(*values)
    for space in spaces:
        snapshot.undo += [space.clear, functools.partial(space.update, dict(space))]
    if function is not None:
        seen = inspect.getclosurevars(function).globals
        snapshot.undo.append(functools.partial(function.__globals__.update, dict(seen)))
        for cell in function.__closure__ or ():
            snapshot.undo.append(
                functools.partial(setattr, cell, "cell_contents", cell.cell_contents)
            )
    return snapshot
