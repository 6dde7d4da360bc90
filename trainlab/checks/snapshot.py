"""Save the state of a user's objects and restore it in place, bit for bit."""

import functools
import inspect
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

LARGE = 1_000_000  # elements; a larger tensor that a step function refers to is data and not copied


class Snapshot:
    """The state of objects and of all they reach through containers and objects with a state_dict:
    tensors (data, .grad, requires_grad), attributes, items.
    """

    def __init__(self, *objects: Any):
        self.undo: list[Callable[[], Any]] = []
        self._seen: dict[int, Any] = {}
        for value in objects:
            self._save(value)

    @torch.no_grad()
    def restore(self) -> None:
        """Restore everything. May be called any number of times."""
        for undo in self.undo:
            undo()

    def _save(self, value: Any) -> None:
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value  # kept alive, so that no other object gets its id
        if isinstance(value, Tensor):
            self._save_tensor(value)
        elif isinstance(value, torch.Generator):
            self.undo.append(functools.partial(value.set_state, value.get_state()))
        elif isinstance(value, dict | set):
            self.undo += [value.clear, functools.partial(value.update, value.copy())]
            for item in value.values() if isinstance(value, dict) else ():
                self._save(item)
        elif isinstance(value, list | deque):
            self.undo += [value.clear, functools.partial(value.extend, value.copy())]
            for item in value:
                self._save(item)
        elif isinstance(value, tuple):
            for item in value:
                self._save(item)
        elif has_state(value):
            self._save(vars(value))

    def _save_tensor(self, tensor: Tensor) -> None:
        data, values = tensor.data, tensor.detach().clone()
        grad, trainable = (tensor.grad, tensor.requires_grad) if tensor.is_leaf else (None, None)
        if grad is not None:
            self._save(grad)

        def undo() -> None:
            tensor.data = data
            data.copy_(values)
            if trainable is not None:
                tensor.requires_grad_(trainable).grad = grad

        self.undo.append(undo)


def has_state(value: Any) -> bool:
    """Models, optimizers, learning-rate schedulers, gradient scalers: objects with a state_dict."""
    both = hasattr(value, "state_dict") and hasattr(value, "__dict__")
    return both and not isinstance(value, type)


class Step:
    """What a step function refers to through bound arguments, attributes, closure and globals.

    `states` (objects with a state_dict) may be restored between calls. The rest, which may count
    the calls, is restored by `restore` only. References are followed into functions and objects of
    the same module.
    """

    def __init__(self, step: Callable):
        self.values: list[Any] = []
        self._names: list[Callable[[], Any]] = []  # calls that undo the rebinding of a name
        self._followed: set[int] = set()
        self._follow(step)
        self.states = [value for value in self.values if has_state(value)]
        self._snapshot = Snapshot(*self.values)

    def restore(self) -> None:
        """Restore everything, rebound names (nonlocal, global, attributes) included."""
        self._snapshot.restore()
        for undo in self._names:
            undo()

    def _follow(self, step: Any) -> None:
        if id(step) in self._followed:
            return
        self._followed.add(id(step))
        if isinstance(step, functools.partial):
            self._refer(step.args, step.func)
            self._refer(step.keywords.values(), step.func)
            self._follow(step.func)
        elif inspect.ismethod(step):
            self._attributes(step.__self__)
            self._follow(step.__func__)
        elif inspect.isfunction(step):
            self._attributes(step)
            names = inspect.getclosurevars(step)
            self._names.append(functools.partial(step.__globals__.update, dict(names.globals)))
            for name, cell in zip(step.__code__.co_freevars, step.__closure__ or (), strict=True):
                if name in names.nonlocals:  # not an empty cell
                    undo = functools.partial(setattr, cell, "cell_contents", cell.cell_contents)
                    self._names.append(undo)
            self._refer([*names.nonlocals.values(), *names.globals.values()], step)
        elif hasattr(step, "__dict__"):
            self._attributes(step)
            self._follow(type(step).__call__)

    def _attributes(self, owner: Any) -> None:
        space = vars(owner)
        if not isinstance(space, dict):  # a class: a mappingproxy, which cannot be restored
            return
        self._names += [space.clear, functools.partial(space.update, dict(space))]
        self._refer(space.values(), owner)

    def _refer(self, values: Iterable[Any], origin: Any) -> None:
        for value in values:
            value = value.__self__ if inspect.ismethod(value) else value  # e.g. scheduler.step
            local = getattr(value, "__module__", None) == getattr(origin, "__module__", "")
            if inspect.isfunction(value) or (local and not has_state(value)):
                if local and not isinstance(value, type):
                    self._follow(value)
            elif not (isinstance(value, Tensor) and value.numel() > LARGE):
                self.values.append(value)
