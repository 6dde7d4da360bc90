"""The only file that sees inside a forward pass: activations, their gradients, one step's update.

Nothing here changes what it watches: a look is an extra eager pass after which parameters,
gradients, buffers, modes and random streams are, bit for bit, what they were. B batch, R runs.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from trainlab.observe.statistics import measure, same_streams, write
from trainlab.training.modules import (
    MIXING,
    activation_name,
    is_activation,
    is_mapped,
    matrices,
    single,
)
from trainlab.training.trainer import evaluating

# the elementwise functions of torch.nn.functional, by the name of the layer that a call becomes
ACTIVATIONS = """
    celu elu gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu logsigmoid mish prelu relu
    relu6 rrelu selu sigmoid silu softplus softshrink softsign tanh tanhshrink threshold
""".split()  # noqa: SIM905
# torch's name of a call, without "_" at its ends -> name of the layer
CALLS = {name: name for name in ACTIVATIONS} | {
    "log_sigmoid": "logsigmoid",
    "special_expit": "sigmoid",
}
PLAIN = int | float | str | bool | None
_mixing: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@dataclass
class Layer:
    """One activation: what a module in the activation's place, or else a call of one of torch's
    activations, did with its input. Or the output of the model; then `function` is None."""

    name: str  # 01.relu, 02.relu, 03.logits: in the order of the calls
    function: nn.Module | Callable[..., Tensor] | None
    args: tuple[Any, ...]  # what followed the input
    kwargs: dict[str, Any]
    x: Tensor  # the input (B, ...), detached, as it was before the call
    out: Tensor  # the output (B, ...), in the graph
    grad: Tensor | None = None  # d objective / d out
    place: tuple[int, int] | None = None  # r, R: x, out and grad are those of run r of a stack of R

    def again(self, x: Tensor) -> Tensor:
        """The same function of another input, in its evaluation form (rrelu has its mean slope);
        parameters as they are now."""
        if not isinstance(self.function, nn.Module):
            kwargs = self.kwargs | {"training": False} if "training" in self.kwargs else self.kwargs
            return self.function(x, *self.args, **kwargs)
        if self.place is None or self.same_as is not None:
            return _evaluated(self.function, x, *self.args, **self.kwargs)
        run, runs = self.place  # a module of a stack takes the inputs of all runs
        every = x.expand(runs, *x.shape)
        return _evaluated(self.function, every, *self.args, **self.kwargs)[run]

    @cached_property
    def same_as(self) -> tuple[Any, ...] | None:
        """Equal for layers of one and the same function of a number, which may be computed together
        and in any shape. None for one that must be called in the shape it was called in: it has
        tensors of its own, as PReLU has, or nobody knows what it does."""
        if isinstance(self.function, nn.Module):
            return self.remembered_as if _of_torch(self.function) else None
        if any(isinstance(value, Tensor) for value in (*self.args, *self.kwargs.values())):
            return None
        return self.function, self.args, *self.kwargs.items()

    @cached_property
    def remembered_as(self) -> tuple[Any, ...] | None:
        """Equal for layers whose slopes are alike; None where it may not stay what it is. A module
        without tensors and parts is what its class and its settings say."""
        if not isinstance(self.function, nn.Module):
            return self.same_as
        own = single(self.function)
        if self.args or self.kwargs or _has_tensors(self.function) or _has_parts(own):
            return None
        settings = [(k, v) for k, v in vars(own).items() if k[0] != "_" and k != "training"]
        plain = all(isinstance(value, PLAIN) for _, value in settings)
        return (type(own), *settings) if plain else None

    @cached_property
    def elementwise(self) -> bool:
        """Whether each output has its own input, and so a slope. Maxout takes more than one."""
        if self.function is None or self.out.shape != self.x.shape:
            return False
        return not isinstance(self.function, nn.Module) or not self._mixes()

    def _mixes(self) -> bool:
        """Whether one element of the input reaches the output at another one's place, as softmax
        makes it. Torch's own are known; any other module is tried, once."""
        if _of_torch(self.function):
            return False
        if self.function not in _mixing:
            draw = torch.rand(self.x.shape, generator=torch.Generator().manual_seed(0))
            kept = (draw < 0.5).to(self.x.device)
            with torch.no_grad():
                changed = self.again(torch.where(kept, self.x, 1 - self.x))
                same = torch.isclose(changed, self.again(self.x.clone()), equal_nan=True)
            _mixing[self.function] = not bool(same[kept].all())
        return _mixing[self.function]


def _of_torch(module: nn.Module) -> bool:
    """Whether it is one of torch's elementwise activations."""
    known = type(module).__module__ == nn.modules.activation.__name__
    return known and not isinstance(module, MIXING)


def _has_parts(module: nn.Module) -> bool:
    return any(True for _ in module.children())


def _has_tensors(module: nn.Module) -> bool:
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())


def _evaluated(module: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
    """module(...) in evaluation mode, without what hooks of others would do; buffers stay."""
    held = any(True for _ in module.buffers())
    with evaluating(module), unmoved(module) if held else nullcontext():
        return module.forward(*args, **kwargs)


@dataclass
class StepRecord:
    """What was seen round one step. Keys are `NN.name`, in the order of `model.parameters()`."""

    layers: list[Layer]
    params: dict[str, Tensor]  # copies from before the step
    grads: dict[str, Tensor]  # d objective / d parameter, before clipping; none where it is unused
    updates: dict[str, Tensor]  # after - before; empty until the step is done
    runs: int | None = None  # of a stack: how many; then everything above has a leading R
    at: int = 0  # the step, counted from 0
    weights: frozenset[str] = field(default_factory=frozenset)  # names of the matrices

    def matrices(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Those of the parameters that are matrices, see training/modules.py."""
        return {name: t for name, t in tensors.items() if name in self.weights}


def _recorded(
    name: str, function: Callable, args: tuple, kwargs: dict, x: Tensor, copy: Tensor, out: Tensor
) -> tuple[Layer, Tensor]:
    """The layer that function(copy, *args, **kwargs) = out becomes, and what the model goes on with
    in the place of `out`: a copy, because a later in-place change would corrupt what was seen."""
    # private: nothing public says whether a tensor was changed in place, without a comparison of
    # all its numbers. torch counts the changes; a copy has none
    if copy._version == 0:
        return Layer(name, function, args, kwargs, copy.detach(), out), out.clone()
    seen, changed = x.detach().clone(), x.copy_(copy)  # whoever holds x must see the change in it
    return Layer(name, function, args, kwargs, seen, out), changed if out is copy else out.clone()


class _Recorder(TorchFunctionMode):
    """Sees every torch call of the enclosed code, and none that torch makes inside of one; and
    every call of an activation module, and none of the calls inside of it."""

    def __init__(self, layers: list[Layer], activations: set[nn.Module]):
        super().__init__()
        self.layers, self.activations = layers, activations
        self.entered: list[tuple[Tensor, Tensor] | None] = []  # of the modules that are running

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = None if self.entered else CALLS.get(getattr(function, "__name__", "").strip("_"))
        if name is None:
            return function(*args, **kwargs)
        x, *rest = args or (kwargs.pop("input"),)
        copy = x.clone()
        out = function(copy, *rest, **kwargs)
        layer, handed = _recorded(name, function, tuple(rest), kwargs, x, copy, out)
        self.layers.append(layer)
        return handed

    def enter(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Before the forward of an activation, or of a module whose inside cannot be seen."""
        if not args:
            return None
        if self.entered or module not in self.activations:
            self.entered.append(None)
            return None
        copy = args[0].clone()
        self.entered.append((args[0], copy))
        return (copy, *args[1:]), kwargs

    def leave(self, module: nn.Module, args: tuple, kwargs: dict, out: Any) -> Tensor | None:
        """After it: what the model goes on with in the place of `out`, or None for `out`."""
        held = self.entered.pop() if args else None
        if held is None or not isinstance(out, Tensor):
            return None
        name = activation_name(module)
        layer, handed = _recorded(name, module, args[1:], kwargs, *held, out)
        self.layers.append(layer)
        return handed


@contextmanager
def recorded_layers(model: nn.Module) -> Iterator[list[Layer]]:
    """Record the activations called inside, in their order, and the output of `model`.

    A module in the activation's place is one, whatever it computes, and so is any of torch's; of
    what is called elsewhere, every spelling of torch's elementwise activations. The model computes
    what it would compute alone. Names get their numbers when the context ends. Under vmap, enter it
    inside the mapped function and return what is wanted.
    """
    layers: list[Layer] = []
    named = list(model.named_modules(remove_duplicate=False))
    # nn.Identity in the activation's place leaves x as it is: no layer
    activations = {m for n, m in named if is_activation(n, m) and not isinstance(m, nn.Identity)}
    recorder = _Recorder(layers, activations)

    def output(module, args, out):
        if isinstance(out, Tensor):
            layers.append(Layer("logits", None, (), {}, out.detach(), out))
            return out.clone()
        return None

    hooks = []
    for module in activations | {m for _, m in named if is_mapped(m)}:
        hooks.append(module.register_forward_pre_hook(recorder.enter, with_kwargs=True))
        hooks.append(module.register_forward_hook(recorder.leave, with_kwargs=True))
    hooks.append(model.register_forward_hook(output))
    try:
        with recorder:
            yield layers
    finally:
        for hook in hooks:
            hook.remove()
        for layer, name in zip(layers, numbered([layer.name for layer in layers]), strict=True):
            layer.name = name


@torch.no_grad()
def outputs(model: nn.Module, layers: list[nn.Module], x: Tensor) -> dict[nn.Module, Tensor]:
    """What each of `layers` puts out on x (B, ...), in the order in which they are first called.
    Buffers and random streams are left as they were."""
    seen: dict[nn.Module, Tensor] = {}

    def keep(module, args, out):
        seen.setdefault(module, out.clone())

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        with unmoved(model):
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


@torch.no_grad()
def input_shapes(model: nn.Module, layers: list[nn.Module], x: Tensor) -> dict[nn.Module, Any]:
    """The shape of what each of `layers` is first called with on x (B, ...), up to the layer that
    refuses it. Modes, buffers and random streams are left as they were."""
    seen: dict[nn.Module, torch.Size] = {}

    def keep(module, args):
        seen.setdefault(module, args[0].shape)

    hooks = [layer.register_forward_pre_hook(keep) for layer in layers]
    try:
        with unmoved(model), evaluating(model), suppress(ValueError):
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def numbered(names: list[str]) -> list[str]:
    """[a, b] -> [01.a, 02.b], padded so that sorting keeps the order."""
    width = max(2, len(str(len(names))))
    return [f"{index:0{width}}.{name}" for index, name in enumerate(names, 1)]


def eager(model: nn.Module) -> nn.Module:
    """The module behind `torch.compile`, which has the same parameters; others as they are."""
    return getattr(model, "_orig_mod", model)  # torch has no public name for it


@contextmanager
def unmoved(model: nn.Module) -> Iterator[None]:
    """Buffers and random streams, also the model's own, are afterwards what they were before."""
    modules = list(model.modules())
    buffers = [
        (m, name, b, b.clone())
        for m in modules
        for name, b in m.named_buffers(recurse=False, remove_duplicate=False)
    ]
    states = [(g, g.get_state()) for m in modules for g in _generators(m)]
    with same_streams():
        try:
            yield
        finally:
            for generator, state in states:
                generator.set_state(state)
            with torch.no_grad():
                for module, name, buffer, value in buffers:
                    setattr(module, name, buffer.copy_(value))


def _generators(module: nn.Module) -> list[torch.Generator]:
    """Those that the module holds itself, or in a list."""
    lists = [v if isinstance(v, list) else [v] for v in vars(module).values()]
    return [g for held in lists for g in held if type(g) is torch.Generator]  # isinstance is slow


def capture(
    model: nn.Module,
    objective: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    runs: int | None = None,
) -> StepRecord:
    """One extra pass over x (B, ...), y (B,) in the model's present mode, with the dropout masks of
    the step to come; `runs` where it is a stack.

    `objective(logits, y)` is () or (R,). Nothing is left behind: `.grad` is not touched, the graph
    is freed.
    """
    model = eager(model)
    params = _named(model)
    free = {name: p for name, p in params.items() if p.requires_grad}
    with unmoved(model), torch.enable_grad():
        with recorded_layers(model) as layers:
            logits = model(x)
        losses = objective(logits, y)
        tapped = [layer for layer in layers if layer.out.requires_grad]
        inputs = [layer.out for layer in tapped] + list(free.values())
        grads = torch.autograd.grad(losses, inputs, torch.ones_like(losses), allow_unused=True)
    for layer, grad in zip(tapped, grads, strict=False):
        layer.grad = grad
    for layer in layers:
        layer.out = layer.out.detach()
    found = zip(free, grads[len(tapped) :], strict=True)
    grads = {name: grad for name, grad in found if grad is not None}
    return StepRecord(layers, _copied(params), grads, {}, runs, weights=_weights(model, runs))


@contextmanager
def capture_around(
    model: nn.Module,
    objective: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    runs: int | None = None,
) -> Iterator[StepRecord]:
    """Look, let the body take its step on x (B, ...), y (B,), then fill in the updates."""
    record = capture(model, objective, x, y, runs)
    yield record
    _moved(record, _named(model))


def _weights(model: nn.Module, runs: int | None) -> frozenset[str]:
    """The names that a StepRecord has for the matrices."""
    held = set(map(id, matrices(eager(model), runs).values()))
    return frozenset(name for name, p in _named(model).items() if id(p) in held)


def _named(model: nn.Module) -> dict[str, Tensor]:
    """Parameters by the names that a StepRecord has for them."""
    params = dict(eager(model).named_parameters())
    return dict(zip(numbered(list(params)), params.values(), strict=True))


@torch.no_grad()
def _copied(params: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers, by one call."""
    copies = torch._foreach_mul(list(params.values()), 1) if params else []
    return dict(zip(params, copies, strict=True))


@torch.no_grad()
def _moved(record: StepRecord, params: dict[str, Tensor]) -> None:
    before, after = list(record.params.values()), list(params.values())
    updates = torch._foreach_sub(after, before) if params else []
    record.updates = dict(zip(params, updates, strict=True))


@contextmanager
def capture_step(
    trainer: Any, x: Tensor, y: Tensor, runs: int | None = None
) -> Iterator[StepRecord]:
    """The body is the trainer's step on x (B, ...), y (B,), of `runs` runs where it is a stack. A
    plain step is itself recorded: what it computes is copied on the way, not changed. One of other
    code than the model's own (compiled, in parts, in half precision) is looked at before."""
    model = trainer.forward
    own = model is eager(trainer.model) and trainer.accumulate == 1 and trainer.scaler is None
    with (
        _inside(trainer, runs)
        if own
        else capture_around(trainer.model, trainer.objective, x, y, runs) as record
    ):
        record.at = trainer.step_count
        yield record


@contextmanager
def _inside(trainer: Any, runs: int | None) -> Iterator[StepRecord]:
    model = trainer.model
    params = _named(model)
    record = StepRecord([], _copied(params), {}, {}, runs, weights=_weights(model, runs))

    def forward(x: Tensor) -> Tensor:
        if record.layers:  # L-BFGS calls again, after it has moved
            return model(x)
        with recorded_layers(model) as layers:
            logits = model(x)
        record.layers = layers
        for layer in layers:
            if layer.out.requires_grad:
                layer.out.register_hook(partial(setattr, layer, "grad"))
        return logits

    def keep(name: str, grad: Tensor) -> None:
        found.setdefault(name, grad)  # the first; held here, so nobody works in it

    found: dict[str, Tensor] = {}
    free = {name: p for name, p in params.items() if p.requires_grad}
    hooks = [p.register_hook(partial(keep, name)) for name, p in free.items()]
    try:
        with trainer.calling(forward):
            yield record
    finally:
        for hook in hooks:
            hook.remove()
        for layer in record.layers:
            layer.out = layer.out.detach()
    record.grads = {name: found[name] for name in params if name in found}
    _moved(record, params)


@contextmanager
def probe_step(
    probes: Mapping[str, Callable], log: Any, trainer: Any, x: Tensor, y: Tensor
) -> Iterator[None]:
    """The body is the trainer's step on x (B, ...), y (B,); what the probes saw goes to the log."""
    with capture_step(trainer, x, y) as record:
        yield
    write(log, trainer.step_count, *measure(record, probes))
