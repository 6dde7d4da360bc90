"""The layers of a stack: (R, B, ...) -> (R, B, ...), each one or few calls for all R runs.

Parameters have the names of the single layer's and a leading R; what belongs to one run is the
slice r of every parameter and buffer. R runs, B batch, F G features, C channels, H W image.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrize import is_parametrized


def stack_tensors(tensors: Sequence[Tensor]) -> Tensor:
    """R tensors -> (R, ...), contiguous with the run axis first: in-place buffer updates need
    that."""
    return torch.stack([t.detach() for t in tensors]).contiguous()


def stacked_parameter(params: Sequence[nn.Parameter]) -> nn.Parameter:
    """R parameters -> one, (R, ...); frozen where they are."""
    return nn.Parameter(stack_tensors(params), requires_grad=params[0].requires_grad)


def packed(x: Tensor) -> Tensor:
    """(R, B, C, ...) -> (B, R * C, ...), a view where the memory is laid out so.

    On the CPU all channels of a pixel lie side by side: of 16 runs a grouped convolution takes 0.2
    to 0.75 of the time so, and pooling 0.1.
    """
    if x.dim() == 5 and x.device.type == "cpu":
        maps = x.permute(1, 3, 4, 0, 2).flatten(3).permute(0, 3, 1, 2)
        return maps.contiguous(memory_format=torch.channels_last)
    return x.transpose(0, 1).flatten(1, 2)


def unpacked(x: Tensor, runs: int) -> Tensor:
    """(B, R * C, ...) -> (R, B, C, ...), a view."""
    return x.unflatten(1, (runs, -1)).transpose(0, 1)


class Stacked(nn.Module):
    """A layer of R runs: `each` takes (R, B, ...). With `folded`, as inside a module that knows
    nothing of runs, forward takes and gives (R * B, ...)."""

    folded = False

    def __init__(self, runs: int):
        super().__init__()
        self.runs = runs

    def forward(self, x: Tensor) -> Tensor:
        if not self.folded:
            return self.each(x)
        return self.each(x.unflatten(0, (self.runs, -1))).flatten(0, 1)

    def each(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def keep(self, runs: list[int]) -> None:
        """Let go of what is not in `runs`, beside parameters and buffers."""
        self.runs = len(runs)

    def take(self, layers: Sequence[nn.Module], *names: str) -> None:
        """Make these parameters of the R layers parameters here; None where they have none."""
        for name in names:
            held = [getattr(layer, name) for layer in layers]
            self.register_parameter(name, None if held[0] is None else stacked_parameter(held))


class Weighted(Stacked):
    """What has a weight (R, G, ...) and a bias (R, G) or none; of weight norm, g and v."""

    G, V = "parametrizations/weight/original0", "parametrizations/weight/original1"

    def __init__(self, layers: Sequence[nn.Module]):
        super().__init__(len(layers))
        self.normed = is_parametrized(layers[0])
        if not self.normed:
            self.take(layers, "weight", "bias")
            return
        self.take(layers, "bias")
        for name in (self.G, self.V):
            held = [layer.get_parameter(name.replace("/", ".")) for layer in layers]
            self.register_parameter(name, stacked_parameter(held))

    def all_weights(self) -> Tensor:
        """(R * G, ...): of weight norm, g v / |v| of every unit, by torch's own call."""
        if not self.normed:
            return self.weight.flatten(0, 1)
        g, v = getattr(self, self.G), getattr(self, self.V)
        # private, but what a single run's weight_norm calls: other sums are other bits
        return torch._weight_norm(v.flatten(0, 1), g.flatten(0, 1), 0)


class Linear(Weighted):
    """(R, B, F) -> (R, B, G) by one batched product. The weights (R, G, F) lie in memory as
    (R, F, G), as their gradient does that torch computes, which so needs no copy."""

    def __init__(self, layers: Sequence[nn.Linear]):
        super().__init__(layers)
        self.lay()

    def lay(self) -> None:
        if not self.normed:
            self.weight.data = self.weight.data.mT.contiguous().mT

    def keep(self, runs: list[int]) -> None:
        super().keep(runs)
        self.lay()

    def each(self, x: Tensor) -> Tensor:
        weight = self.all_weights().unflatten(0, (self.runs, -1)) if self.normed else self.weight
        if self.bias is None:
            return torch.bmm(x, weight.mT)
        return torch.baddbmm(self.bias.unsqueeze(1), x, weight.mT)


class Conv2d(Weighted):
    """(R, B, C, H, W) -> (R, B, G, H, W) by one grouped convolution; where all runs see the same
    images, by one wide one."""

    def __init__(self, layers: Sequence[nn.Conv2d]):
        super().__init__(layers)
        own = layers[0]
        self.how = own.stride, own.padding, own.dilation
        self.groups = own.groups

    def each(self, x: Tensor) -> Tensor:
        shared = self.groups == 1 and x.stride(0) == 0  # of x.expand(R, ...)
        images, groups = (x[0], 1) if shared else (packed(x), self.runs * self.groups)
        bias = None if self.bias is None else self.bias.flatten()
        out = functional.conv2d(images, self.all_weights(), bias, *self.how, groups)
        return unpacked(out, self.runs)


class Packed(nn.Module):
    """A pooling without weights, over the R * C channels of (R, B, C, H, W)."""

    def __init__(self, pool: nn.Module):
        super().__init__()
        self.one = [pool]

    def forward(self, x: Tensor) -> Tensor:
        return unpacked(self.one[0](packed(x)), len(x))


class BatchNorm(Stacked):
    """(R, B, F) or (R, B, C, H, W): torch's own batch norm on R * F features or R * C channels, so
    its running statistics are torch's too."""

    def __init__(self, layers: Sequence[nn.BatchNorm1d]):
        super().__init__(len(layers))
        self.take(layers, "weight", "bias")
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            held = [getattr(layer, name) for layer in layers]
            self.register_buffer(name, None if held[0] is None else stack_tensors(held))
        self.momentum, self.eps = layers[0].momentum, layers[0].eps

    def each(self, x: Tensor) -> Tensor:
        if self.training and self.running_mean is not None:
            self.num_batches_tracked += 1
        names = "running_mean", "running_var", "weight", "bias"
        flat = (None if (t := getattr(self, name)) is None else t.view(-1) for name in names)
        own = self.training or self.running_mean is None
        return unpacked(
            functional.batch_norm(packed(x), *flat, own, self.momentum, self.eps), self.runs
        )


class LayerNorm(Stacked):
    """torch's own, and then gain and shift of each run."""

    def __init__(self, layers: Sequence[nn.LayerNorm]):
        super().__init__(len(layers))
        self.take(layers, "weight", "bias")
        self.shape, self.eps = layers[0].normalized_shape, layers[0].eps

    def each(self, x: Tensor) -> Tensor:
        x = functional.layer_norm(x, self.shape, None, None, self.eps)
        if self.weight is None:
            return x
        shape = [self.runs, *[1] * (x.dim() - 1 - len(self.shape)), *self.shape]
        weight = self.weight.view(shape)
        return x * weight if self.bias is None else torch.addcmul(self.bias.view(shape), x, weight)


class RMSNorm(Stacked):
    """torch's own, and then the gain of each run."""

    def __init__(self, layers: Sequence[nn.RMSNorm]):
        super().__init__(len(layers))
        self.take(layers, "weight")
        self.shape, self.eps = layers[0].normalized_shape, layers[0].eps

    def each(self, x: Tensor) -> Tensor:
        x = functional.rms_norm(x, self.shape, None, self.eps)
        if self.weight is None:
            return x
        return x * self.weight.view(self.runs, *[1] * (x.dim() - 1 - len(self.shape)), *self.shape)


class GroupNorm(Stacked):
    """torch's own with R * groups groups of R * C channels."""

    def __init__(self, layers: Sequence[nn.GroupNorm]):
        super().__init__(len(layers))
        self.take(layers, "weight", "bias")
        self.groups, self.eps = layers[0].num_groups, layers[0].eps

    def each(self, x: Tensor) -> Tensor:
        own = (None if t is None else t.flatten() for t in (self.weight, self.bias))
        groups = self.runs * self.groups
        return unpacked(functional.group_norm(packed(x), groups, *own, self.eps), self.runs)


class InstanceNorm(Stacked):
    """torch's own, without running figures, on R * C channels."""

    def __init__(self, layers: Sequence[nn.InstanceNorm2d]):
        super().__init__(len(layers))
        self.take(layers, "weight", "bias")
        self.eps = layers[0].eps

    def each(self, x: Tensor) -> Tensor:
        weight, bias = (None if t is None else t.flatten() for t in (self.weight, self.bias))
        out = functional.instance_norm(packed(x), None, None, weight, bias, eps=self.eps)
        return unpacked(out, self.runs)


class PReLU(Stacked):
    """One slope a run, or one a run and channel."""

    def __init__(self, layers: Sequence[nn.PReLU]):
        super().__init__(len(layers))
        self.take(layers, "weight")

    def each(self, x: Tensor) -> Tensor:
        slope = self.weight.view(self.runs, 1, -1, *[1] * (x.dim() - 3))
        return torch.where(x > 0, x, slope * x)
