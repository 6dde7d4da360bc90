"""Layers of a stack that draw at random: run r from its own generator, what it would draw alone.
R runs, B batch."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from trainlab.stack.stacked import Stacked


class Drawing(Stacked):
    """One generator for each run, shared by all layers that draw."""

    def __init__(self, generators: Sequence[torch.Generator]):
        super().__init__(len(generators))
        self.generators = list(generators)

    def keep(self, runs: list[int]) -> None:
        super().keep(runs)
        self.generators = [self.generators[run] for run in runs]

    def get_extra_state(self) -> Tensor:
        """Where each generator stands, (R, bytes): part of a checkpoint."""
        return torch.stack([generator.get_state() for generator in self.generators])

    def set_extra_state(self, state: Tensor) -> None:
        for generator, own in zip(self.generators, state.cpu(), strict=True):
            generator.set_state(own.clone())  # a view of another tensor crashes torch


class Dropout(Drawing):
    """(R, B, ...), p may be each run's own."""

    def __init__(self, ps: Sequence[float], generators: Sequence[torch.Generator]):
        super().__init__(generators)
        self.ps = list(ps)

    def keep(self, runs: list[int]) -> None:
        super().keep(runs)
        self.ps = [self.ps[run] for run in runs]

    def each(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        device = self.generators[0].device
        factors = torch.ones(x.shape, dtype=x.dtype, device=device)
        for own, p, generator in zip(factors, self.ps, self.generators, strict=True):
            if 0 < p < 1:  # else torch draws nothing
                own.bernoulli_(1 - p, generator=generator)
            elif p == 1:
                own.zero_()
        if len(set(self.ps)) == 1:
            factors.div_(1 - self.ps[0] or 1.0)
        else:
            shares = torch.tensor([1 - p or 1.0 for p in self.ps], dtype=x.dtype, device=device)
            factors.div_(shares.view(-1, *[1] * (x.dim() - 1)))
        return x * factors.to(x.device)


class RReLU(Drawing):
    """Xu et al. 2015: below 0 a slope drawn from U(lower, upper), in evaluation their mean."""

    def __init__(self, lower: float, upper: float, generators: Sequence[torch.Generator]):
        super().__init__(generators)
        self.bounds = lower, upper

    def each(self, x: Tensor) -> Tensor:
        if not self.training:
            return functional.rrelu(x, *self.bounds)
        seen = x.detach().to(self.generators[0].device)
        slopes = torch.empty(x.shape, dtype=x.dtype, device=seen.device)
        for own, slope, generator in zip(seen, slopes, self.generators, strict=True):
            torch.ops.aten.rrelu_with_noise(own, slope, *self.bounds, True, generator)
        return x * slopes.to(x.device)
