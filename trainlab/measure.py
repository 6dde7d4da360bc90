"""Figures of what was seen, of all layers of one shape and of all runs of a stack at once, so that
a look costs a handful of operations and one transfer to the host.

L layers of one shape, R runs (1 where there is no stack), B batch, U units, N elements.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

BINS = 64
MOST = 4096  # elements of a tensor that a histogram counts
WIDE = 2**16  # elements of a run above which laying tensors together costs more than it saves
# a tag, or the tags of L layers whose figures have a leading L; of a stack an R follows
Tags = str | tuple[str, ...]
Scalars = dict[str, float]
Counted = dict[str, tuple[list[int], float, float]]  # {tag: (counts, low, high)}


class Histogram(NamedTuple):
    """Counts (..., bins) over equal bins between `low` and `high` (...). Where an element was not
    finite, `low` or `high` is not, and the counts mean nothing."""

    counts: Tensor
    low: Tensor
    high: Tensor


Seen = dict[Tags, Tensor | Histogram]


def of_runs(probe: Callable[[Any], Seen]) -> Callable[[Any], Seen]:
    """Marks a probe that measures all runs of a stack at once: its Sight has (R, ...) everywhere.
    Any other is shown each run alone."""
    probe.of_runs = True
    return probe


def same_streams() -> AbstractContextManager[None]:
    """torch's global random streams, of the CPU and of CUDA if in use, go on as if untouched."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    return torch.random.fork_rng(devices)


def tags(quantity: str, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{quantity}/{name}" for name in names)


def single(values: Tensor) -> Tensor:
    """Half precision as float32; others as they are."""
    return values.float() if values.dtype.itemsize < 4 else values


def together(tensors: Sequence[Tensor], runs: int | None) -> Tensor:
    """L tensors (...), of a stack (R, ...), of one shape -> (L, R, ...); one is not copied."""
    joined = torch.stack(list(tensors)) if len(tensors) > 1 else tensors[0].unsqueeze(0)
    return joined if runs is not None else joined.unsqueeze(1)


def small(tensor: Tensor, runs: int | None) -> bool:
    return tensor.numel() <= WIDE * (runs or 1)


def alike(tensors: Mapping[str, Tensor], runs: int | None) -> list[tuple[list[str], Tensor]]:
    """Names and (L, R, ...) of those that have one shape; half precision as float32."""
    groups: dict[Any, list[str]] = {}
    for name, tensor in tensors.items():
        kind = (tensor.shape, tensor.dtype, tensor.device) if small(tensor, runs) else name
        groups.setdefault(kind, []).append(name)
    return [(n, single(together([tensors[name] for name in n], runs))) for n in groups.values()]


def norms(quantity: str, tensors: Mapping[str, Tensor], runs: int | None) -> dict[Tags, Tensor]:
    """L2 norms, (L, R)."""
    return {
        tags(quantity, names): torch.linalg.vector_norm(
            values.unsqueeze(-1), dim=tuple(range(2, values.dim() + 1))
        )
        for names, values in alike(tensors, runs)
    }


def histograms(
    quantity: str, tensors: Mapping[str, Tensor], runs: int | None
) -> dict[Tags, Histogram]:
    """Of at most MOST evenly strided elements of each tensor."""
    few = {name: strided(tensor, runs) for name, tensor in tensors.items()}
    return {tags(quantity, names): counted(values) for names, values in alike(few, runs)}


def strided(tensor: Tensor, runs: int | None) -> Tensor:
    """(N,), of a stack (R, N)."""
    if tensor.numel() <= MOST * (runs or 1):
        return tensor.flatten(0 if runs is None else 1)
    flat = tensor.reshape(-1) if runs is None else tensor.reshape(runs, -1)
    # an odd stride meets every column of a power-of-two width
    return flat[..., :: -(-flat.shape[-1] // MOST) | 1]


def counted(values: Tensor) -> Histogram:
    """The histograms of (L, R, N). Counts are those of torch.histc, which takes one tensor a call
    and makes the host wait for its limits."""
    low, high = values.amin(2), values.amax(2)
    size = (high - low).clamp_min_(torch.finfo(values.dtype).tiny)
    unit = (values - low.unsqueeze(2)).div_(size.unsqueeze(2))
    place = unit.mul_(BINS).long().clamp_(0, BINS - 1)  # the highest is in the last bin; so is nan
    ones = values.new_ones(()).expand_as(place)
    counts = values.new_zeros((*low.shape, BINS)).scatter_add_(2, place, ones)
    return Histogram(counts, low, high)


def measure(sight: Any, probes: Mapping[str, Callable[[Any], Seen]]) -> tuple[Scalars, Counted]:
    """Run the probes on one sight of one run: {tag: value} and {tag: (counts, low, high)}."""
    return measured(sight, probes)[0]


@torch.no_grad()
def measured(
    sight: Any, probes: Mapping[str, Callable[[Any], Seen]]
) -> list[tuple[Scalars, Counted]]:
    """What `measure` gives, of each run in its place. One transfer from the device to the host,
    whatever the number of probes and runs; tags in the order of their quantities and layers."""
    runs = sight.runs or 1
    with same_streams():
        seen = {t: v for probe in probes.values() for t, v in shown(sight, probe).items()}
        parts = [part for v in seen.values() for part in (v if isinstance(v, Histogram) else (v,))]
        flat = [single(part).reshape(-1) for part in parts]
        host = torch.cat(flat).cpu().numpy() if flat else ()
    scalars: dict[str, Sequence[float]] = {}  # of all runs
    spread: dict[str, tuple] = {}
    at = 0

    def take(layers: int, bins: int = 1) -> list:
        nonlocal at
        begun, at = at, at + layers * runs * bins
        return host[begun:at].reshape(layers, runs, bins)

    for names, value in seen.items():
        names = names if isinstance(names, tuple) else (names,)
        if isinstance(value, Histogram):
            counts = take(len(names), value.counts.shape[-1]).astype(int).tolist()
            limits = [take(len(names))[..., 0].tolist() for _ in range(2)]
            spread |= zip(names, zip(counts, *limits, strict=True), strict=True)
        else:
            scalars |= zip(names, take(len(names))[..., 0].tolist(), strict=True)
    scalars, spread = in_order(scalars), in_order(spread)
    return [
        (
            {tag: values[run] for tag, values in scalars.items()},
            {tag: tuple(part[run] for part in parts) for tag, parts in spread.items()},
        )
        for run in range(runs)
    ]


def in_order(found: dict[str, Any]) -> dict[str, Any]:
    """Quantities as they came, the layers of each from input to output."""
    quantities = {tag.partition("/")[0]: None for tag in found}
    places = {quantity: place for place, quantity in enumerate(quantities)}
    return dict(sorted(found.items(), key=lambda f: (places[f[0].partition("/")[0]], f[0])))


def shown(sight: Any, probe: Callable[[Any], Seen]) -> Seen:
    """What a probe says of a sight; one that knows of no runs is asked of each."""
    if sight.runs is None or hasattr(getattr(probe, "func", probe), "of_runs"):
        return probe(sight)
    found = [probe(sight.of(run)) for run in range(sight.runs)]
    return {tag: joined([own[tag] for own in found]) for tag in found[0]}


def joined(values: list[Tensor | Histogram]) -> Tensor | Histogram:
    if isinstance(values[0], Histogram):
        return Histogram(*(torch.stack(part) for part in zip(*values, strict=True)))
    return torch.stack(values)
