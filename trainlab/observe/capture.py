"""The only file that sees inside a forward pass: activations, their gradients, one step's update.

Nothing here changes what it watches: a look is an extra eager pass after which parameters,
gradients, buffers, modes and random streams are, bit for bit, what they were. B batch, R runs.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, wrap_torch_function

from trainlab.observe.statistics import measure, same_streams, write

# the elementwise functions of torch.nn.functional, by the name of the layer that a call becomes
ACTIVATIONS = """
    celu elu gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu logsigmoid mish prelu relu
    relu6 rrelu selu sigmoid silu softplus softshrink softsign tanh tanhshrink threshold
""".split()  # noqa: SIM905
# torch's name of a call, without "_" at its ends -> name of the layer; `one_call` adds to them
CALLS = {name: name for name in ACTIVATIONS} | {
    "log_sigmoid": "logsigmoid",
    "special_expit": "sigmoid",
}


def one_call(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same function of (x, ...), seen as one activation call of its own name."""
    CALLS[function.__name__] = function.__name__
    return wrap_torch_function(lambda x, *args, **kwargs: (x,))(function)


@dataclass
class Layer:
    """One activation call, or the output of the model (then `function` is None)."""

    name: str  # 01.relu, 02.relu, 03.logits: in the order of the calls
    function: Callable[..., Tensor] | None
    args: tuple[Any, ...]  # what followed the input
    kwargs: dict[str, Any]
    x: Tensor  # the input (B, ...), detached, as it was before the call
    out: Tensor  # the output (B, ...), in the graph
    grad: Tensor | None = None  # d objective / d out

    def again(self, x: Tensor) -> Tensor:
        """The same function of another input; rrelu in its evaluation form."""
        kwargs = self.kwargs | {"training": False} if "training" in self.kwargs else self.kwargs
        return self.function(x, *self.args, **kwargs)

    @property
    def elementwise(self) -> bool:
        """Whether each output has its own input, and so a slope. Maxout takes more than one."""
        return self.function is not None and self.out.shape == self.x.shape


@dataclass
class StepRecord:
    """What was seen round one step. Keys are `NN.name`, in the order of `model.parameters()`."""

    layers: list[Layer]
    params: dict[str, Tensor]  # copies from before the step
    grads: dict[str, Tensor]  # d objective / d parameter, before clipping; none where it is unused
    updates: dict[str, Tensor]  # after - before; empty until the step is done
    runs: int | None = None  # of a stack: how many; then everything above has a leading R
    at: int = 0  # the step, counted from 0

    def matrices(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Those with two or more dimensions in each run."""
        least = 2 if self.runs is None else 3
        return {name: t for name, t in tensors.items() if t.dim() >= least}


class _Recorder(TorchFunctionMode):
    """Sees every torch call of the enclosed code, and none that torch makes inside of one."""

    def __init__(self, layers: list[Layer]):
        super().__init__()
        self.layers = layers

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = CALLS.get(getattr(function, "__name__", "").strip("_"))
        if name is None:
            return function(*args, **kwargs)
        x, *rest = args or (kwargs.pop("input"),)
        copy = x.clone()
        out = function(copy, *rest, **kwargs)
        # The model goes on with a copy: a later in-place change would corrupt value and gradient.
        if out is copy:  # an in-place call: whoever holds x must see the result in it
            seen, handed = x.detach().clone(), x.copy_(out)
        else:
            seen, handed = copy.detach(), out.clone()
        self.layers.append(Layer(name, function, tuple(rest), kwargs, seen, out))
        return handed


@contextmanager
def recorded_layers(model: nn.Module) -> Iterator[list[Layer]]:
    """Record the elementwise activations called inside, in their order, and the output of `model`.

    Functional, in-place, tensor-method, module and shared activations are seen; the model computes
    what it would compute alone. Names get their numbers when the context ends. Under vmap, enter it
    inside the mapped function and return what is wanted.
    """
    layers: list[Layer] = []

    def output(module, args, out):
        if isinstance(out, Tensor):
            layers.append(Layer("logits", None, (), {}, out.detach(), out))
            return out.clone()
        return None

    hook = model.register_forward_hook(output)
    try:
        with _Recorder(layers):
            yield layers
    finally:
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


def numbered(names: list[str]) -> list[str]:
    """[a, b] -> [01.a, 02.b], padded so that sorting keeps the order."""
    width = max(2, len(str(len(names))))
    return [f"{index:0{width}}.{name}" for index, name in enumerate(names, 1)]


def eager(model: nn.Module) -> nn.Module:
    """The module behind `torch.compile`, which has the same parameters; others as they are."""
    return getattr(model, "_orig_mod", model)


@contextmanager
def unmoved(model: nn.Module) -> Iterator[None]:
    """Buffers and random streams, also the model's own, are afterwards what they were before."""
    modules = list(model.modules())
    buffers = [
        (m, name, b, b.clone()) for m in modules for name, b in m._buffers.items() if b is not None
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
    model: nn.Module, objective: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor
) -> StepRecord:
    """One extra pass over x (B, ...), y (B,) in the model's present mode, with the dropout masks of
    the step to come.

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
    return StepRecord(
        layers, _copied(params), {name: grad for name, grad in found if grad is not None}, {}
    )


@contextmanager
def capture_around(
    model: nn.Module, objective: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor
) -> Iterator[StepRecord]:
    """Look, let the body take its step on x (B, ...), y (B,), then fill in the updates."""
    record = capture(model, objective, x, y)
    yield record
    _moved(record, _named(model))


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
        _inside(trainer)
        if own
        else capture_around(trainer.model, trainer.objective, x, y) as record
    ):
        record.runs, record.at = runs, trainer.step_count
        yield record


@contextmanager
def _inside(trainer: Any) -> Iterator[StepRecord]:
    model = trainer.model
    params = _named(model)
    record = StepRecord([], _copied(params), {}, {})

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
