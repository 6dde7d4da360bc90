"""Gradient descent that torch does not have: averaged momentum, cooling noise, steps relative to
the weights. Named by conf/optim/.

Each takes parameters or parameter groups as torch's optimizers do, adds weight_decay * w to the
gradient as SGD does, and never waits for the device.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from trainlab.training.modules import is_matrix
from trainlab.training.randomness import number


class Descent(Optimizer):
    """The frame: `move(group, params, grads, states)` is one step of one group."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            grads = [p.grad for p in params]
            if params:
                self.move(group, params, grads, [self.state[p] for p in params])
        return loss

    def move(self, group: dict, params: list, grads: list, states: list[dict]) -> None:
        raise NotImplementedError


def add_weight_decay(
    group: dict[str, Any], params: list[Tensor], grads: list[Tensor]
) -> list[Tensor]:
    """g + weight_decay w."""
    if not group["weight_decay"]:
        return grads
    return list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))


def momenta(states: list[dict[str, Any]], params: list[Tensor]) -> list[Tensor]:
    """The momentum of each parameter, zero at first."""
    for state, p in zip(states, params, strict=True):
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
    return [state["momentum_buffer"] for state in states]


class MomentumEMA(Descent):
    """m = momentum m + (1 - momentum) g from m = 0, w = w - lr m.

    Momentum as a running average of the gradient; the same path as optim=momentum at lr
    (1 - momentum). torch's SGD with dampening starts from m = g instead.
    """

    elementwise = True  # so it stacks

    def __init__(
        self,
        params: Iterable,
        lr: float = 0.5,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
    ):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    def move(self, group: dict, params: list, grads: list, states: list[dict]) -> None:
        means = momenta(states, params)
        torch._foreach_lerp_(means, add_weight_decay(group, params, grads), 1 - group["momentum"])
        torch._foreach_add_(params, means, alpha=-group["lr"])


class AnnealedNoise(Descent):
    """w = w - lr (g + n), n normal with variance eta / (1 + t)^gamma at step t = 0, 1, ...

    Neelakantan et al. 2015, https://arxiv.org/abs/1511.06807, equation 1: simulated annealing by
    gradient noise that cools. The noise is a function of (seed, step, group) alone, drawn on the
    parameters' own device from a generator made for the step, so it is the same after a resume and
    touches no other random stream; a GPU draws other numbers than a CPU.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 0.1,
        weight_decay: float = 0.0,
        eta: float = 0.01,
        gamma: float = 0.55,
        seed: int = 0,
    ):
        self.seed = seed
        super().__init__(
            params, {"lr": lr, "weight_decay": weight_decay, "eta": eta, "gamma": gamma}
        )

    def move(self, group: dict, params: list, grads: list, states: list[dict]) -> None:
        step = states[0].get("step", 0)
        for state in states:
            state["step"] = step + 1
        position = next(i for i, each in enumerate(self.param_groups) if each is group)
        generator = torch.Generator(params[0].device)
        generator.manual_seed(number(self.seed, "gradient noise", step, position))
        std = (group["eta"] / (1 + step) ** group["gamma"]) ** 0.5
        noisy = [
            g + std * torch.empty_like(g).normal_(generator=generator)
            for g in add_weight_decay(group, params, grads)
        ]
        torch._foreach_add_(params, noisy, alpha=-group["lr"])


class LARS(Descent):
    """m = momentum m + lr local (g + weight_decay w), w = w - m, with
    local = trust |w| / (|g| + weight_decay |w|) of each layer's own norms.

    You et al. 2017, https://arxiv.org/abs/1708.03888, algorithm 1. Weights only: biases, gains and
    shifts have local = 1, and so has a layer whose weights or gradient are all zero.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1.0,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        trust: float = 0.01,
    ):
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "trust": trust}
        super().__init__(params, defaults)

    def move(self, group: dict, params: list, grads: list, states: list[dict]) -> None:
        decay, steps = group["weight_decay"], []
        for p, g in zip(params, grads, strict=True):
            step = g + decay * p
            if is_matrix(p):
                weight, grad = torch.linalg.vector_norm(p), torch.linalg.vector_norm(g)
                local = group["trust"] * weight / (grad + decay * weight)
                step = step * torch.where((weight > 0) & (grad > 0), local, 1.0)
            steps.append(step)
        moves = momenta(states, params)
        torch._foreach_mul_(moves, group["momentum"])
        torch._foreach_add_(moves, steps, alpha=group["lr"])
        torch._foreach_sub_(params, moves)
