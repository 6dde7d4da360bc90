"""Muon for the matrices inside, AdamW for the rest, as one optimizer. Named by conf/optim/.

torch.optim.Muon takes matrices only and leaves the rest to a second optimizer.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from trainlab.optim.descent import Descent, momenta
from trainlab.training.modules import is_matrix

QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan 2024: steepest at 0, ends between 0.7 and 1.2


def orthogonalised(matrix: Tensor, steps: int = 5) -> Tensor:
    """(N, M) with its singular values brought near 1 by Newton-Schulz: s -> a s + b s^3 + c s^5,
    `steps` times, in the matrix's own precision (torch's Muon takes bfloat16)."""
    a, b, c = QUINTIC
    x = matrix / torch.linalg.vector_norm(matrix).clamp(min=1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.mT if tall else x
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(Descent):
    """Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.

    Of a hidden matrix (N, M) (a convolution's (N, C, H, W) is taken as (N, C H W)):
    m = momentum m + g, w = w - lr max(1, N / M)^0.5 orthogonalised(g + momentum m). The head, which
    is the last matrix given (`groups` keeps that order), embeddings (where their group says
    `adam: true`), and what is no matrix go by AdamW at lr * adam_lr. weight_decay is decoupled in
    both. A group is split in two, so param_groups may be more than were given.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 0.02,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        nesterov: bool = True,
        newton_schulz: int = 5,
        adam_lr: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ):
        given = list(params)
        groups = given if given and isinstance(given[0], dict) else [{"params": given}]
        groups = [group | {"params": list(group["params"])} for group in groups]
        inner = [p for group in groups for p in group["params"] if _has_rows(p)][:-1]
        inside = {id(p) for p in inner}
        split: list[dict[str, Any]] = []
        for group in groups:
            for hidden in (True, False):
                own = [
                    p
                    for p in group["params"]
                    if (id(p) in inside and not group.get("adam", False)) == hidden
                ]
                rate = group.get("lr", lr) * (1 if hidden else adam_lr)
                kept = {"params": own, "lr": rate, "adam": not hidden}
                split += [group | kept] if own else []
        defaults = {
            "lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov,
            "newton_schulz": newton_schulz, "betas": tuple(betas), "eps": eps,
        }  # fmt: skip
        super().__init__(split, defaults)

    def move(self, group: dict, params: list, grads: list, states: list[dict]) -> None:
        (self._adam if group["adam"] else self._muon)(group, params, grads, states)

    def _muon(self, group: dict, params: list, grads: list, states: list[dict]) -> None:
        momentum_buffers, momentum = momenta(states, params), group["momentum"]
        torch._foreach_mul_(momentum_buffers, momentum)
        torch._foreach_add_(momentum_buffers, grads)
        updates = (
            torch._foreach_add(grads, momentum_buffers, alpha=momentum)
            if group["nesterov"]
            else momentum_buffers
        )
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        for p, update in zip(params, updates, strict=True):
            matrix = update.flatten(1)
            wide = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
            update = orthogonalised(matrix, group["newton_schulz"]).view_as(p)
            p.add_(update, alpha=-group["lr"] * wide)

    def _adam(self, group: dict, params: list, grads: list, states: list[dict]) -> None:
        for state, p in zip(states, params, strict=True):
            if not state:  # the step on the CPU, as torch keeps it
                zeros = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
                state.update(zeros, step=torch.tensor(0.0))
        first, second, steps = (
            [state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step")
        )
        beta1, beta2 = group["betas"]
        adamw(
            params, grads, first, second, [], steps,
            amsgrad=False, beta1=beta1, beta2=beta2, lr=group["lr"],
            weight_decay=group["weight_decay"], eps=group["eps"], maximize=False,
        )  # fmt: skip


def _has_rows(p: Tensor) -> bool:
    """More than one row and column: else (a gain of weight norm, (N, 1)) there is one direction."""
    return is_matrix(p) and min(p.shape[0], p[0].numel()) > 1
