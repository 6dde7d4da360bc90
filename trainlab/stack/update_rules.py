"""Steps of SGD and Adam for R runs: in place, settings (R, 1, ...) where they are each run's own.

A rule gets a parameter, its gradient, its state and lr, and changes the first and the third. Large
parameters go through it some runs at a time, so that what it holds stays in the cache.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, optim

from trainlab.stack.lifting import broadcast_runs
from trainlab.training.best_weights import per_run

Group = dict[str, Any]
State = dict[str, Any]
Rule = Callable[[Tensor, Tensor, State, Group, Tensor], None]
BLOCK = 2**17  # numbers at a time


def mask(grad: Tensor, alive: Tensor) -> None:
    """Make the gradients of dead runs 0, whatever they are, by their bits; alive (R,) integers of
    the gradient's size, -1 (all bits) or 0."""
    bits = grad.view(alive.dtype)
    bits &= per_run(alive, grad)


@torch.no_grad()
def step(rule: Rule, p: Tensor, state: State, group: Group, lr: Tensor, alive: Tensor) -> None:
    """One step of a parameter (R, ...); lr (R,), alive as in `mask`."""
    begin(rule, p, state, group)
    if p.device.type != "cpu" or p.numel() <= BLOCK:
        mask(p.grad, alive)
        rule(p, p.grad, state, group, broadcast_runs(lr, p))
        return
    # a power of two, so that a run that moves by 32 places keeps its place in a block
    rows = 2 ** max(0, (BLOCK // p[0].numel()).bit_length() - 1)
    for start in range(0, len(p), rows):
        some = slice(start, start + rows)
        own, grad, rate = p[some], p.grad[some], lr[some]
        mask(grad, alive[some])
        held = {k: v[some] if v.dim() else v for k, v in state.items()}
        rule(own, grad, held, cut(group, some), broadcast_runs(rate, own))


def begin(rule: Rule, p: Tensor, state: State, group: Group) -> None:
    """Count the step; before the first one make the averages, which are 0."""
    if rule is adam:
        names = ["exp_avg", "exp_avg_sq", *["max_exp_avg_sq"] * group["amsgrad"]]
        state.setdefault("step", torch.zeros(()))
        state["step"] += 1
    else:
        names = ["momentum_buffer"] * there(group["momentum"])
    for name in names:
        if state.get(name) is None:
            state[name] = torch.zeros_like(p)


def cut(value: Any, some: slice) -> Any:
    """The settings of some runs."""
    if isinstance(value, dict):
        return {k: v if k == "params" else cut(v, some) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(cut(each, some) for each in value)
    return value[some] if isinstance(value, Tensor) else value


def there(value: float | Tensor) -> bool:
    """Whether a setting is there at all; never waits for the device."""
    return isinstance(value, Tensor) or value != 0


def add_weight_decay(grad: Tensor, p: Tensor, decay: float | Tensor) -> Tensor:
    """g + weight_decay w."""
    if isinstance(decay, Tensor):
        return torch.addcmul(grad, p, broadcast_runs(decay, p))
    return grad.add(p, alpha=decay)


def sgd(p: Tensor, grad: Tensor, state: State, group: Group, lr: Tensor) -> None:
    """torch.optim.SGD: m = momentum m + g, w = w - lr m."""
    if group["maximize"]:
        grad = -grad
    if there(group["weight_decay"]):
        grad = add_weight_decay(grad, p, group["weight_decay"])
    if there(group["momentum"]):
        momentum = broadcast_runs(group["momentum"], p)
        buffer = state["momentum_buffer"].mul_(momentum).add_(grad)
        grad = grad + momentum * buffer if group["nesterov"] else buffer
    p.addcmul_(grad, lr, value=-1)


def adam(p: Tensor, grad: Tensor, state: State, group: Group, lr: Tensor) -> None:
    """torch.optim.Adam and AdamW: m, v averages of g and g^2 corrected for their start at 0,
    w = w - lr m / (sqrt(v) + eps)."""
    step, (one, two) = float(state["step"]), group["betas"]  # on the CPU: no wait
    mean, square = state["exp_avg"], state["exp_avg_sq"]
    if group["maximize"]:
        grad = -grad
    if there(group["weight_decay"]):
        if group["decoupled_weight_decay"]:
            p.mul_(1 - lr * broadcast_runs(group["weight_decay"], p))
        else:
            grad = add_weight_decay(grad, p, group["weight_decay"])
    mean.lerp_(grad, broadcast_runs(1 - one, p))
    if isinstance(two, Tensor):
        square.mul_(broadcast_runs(two, p)).addcmul_(grad * broadcast_runs(1 - two, p), grad)
    else:
        square.mul_(two).addcmul_(grad, grad, value=1 - two)
    if group["amsgrad"]:
        square = torch.maximum(state["max_exp_avg_sq"], square, out=state["max_exp_avg_sq"])
    root = broadcast_runs((1 - two**step) ** 0.5, p)
    # m / c1 / (sqrt(v) / c2 + eps) = (c2 / c1) m / (sqrt(v) + c2 eps)
    bound = square.sqrt().add_(broadcast_runs(group["eps"], p) * root)
    p.addcmul_(mean.div(bound), lr * (root / broadcast_runs(1 - one**step, p)), value=-1)


RULES = {optim.SGD: sgd, optim.Adam: adam, optim.AdamW: adam}
