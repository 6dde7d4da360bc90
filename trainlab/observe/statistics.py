"""Figures of what was seen, of all layers of one shape and of all runs of a stack at once, so that
a look costs a handful of operations and one transfer to the host.

L layers of one shape, R runs (1 where there is no stack), B batch, U units, N elements.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
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


class Sample(NamedTuple):
    """Elements (L, R, N) of which a histogram is wanted."""

    values: Tensor


class Norm(NamedTuple):
    """The L2 norm of a tensor, if asked for as a share of that of another."""

    of: Tensor
    per: Tensor | None = None


Groups = list[tuple[list[str], Tensor]]  # names of L tensors of one shape, and (L, R, ...)
Seen = dict[Tags, Tensor | Histogram | Sample | Norm]


def measures_all_runs(probe: Callable[[Any], Seen]) -> Callable[[Any], Seen]:
    """Marks a probe that measures all runs of a stack at once: its StepRecord has (R, ...)
    everywhere. Any other is shown each run alone."""
    probe.measures_all_runs = True
    return probe


def same_streams() -> AbstractContextManager[None]:
    """torch's global random streams, of the CPU and of CUDA if in use, go on as if untouched."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    return torch.random.fork_rng(devices)


def tags(quantity: str, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{quantity}/{name}" for name in names)


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision as float32; others as they are."""
    return values.float() if values.dtype.itemsize < 4 else values


def stacked_tensors(tensors: Sequence[Tensor], runs: int | None) -> Tensor:
    """L tensors (...), of a stack (R, ...), of one shape -> (L, R, ...); one is not copied."""
    joined = torch.stack(list(tensors)) if len(tensors) > 1 else tensors[0].unsqueeze(0)
    return joined if runs is not None else joined.unsqueeze(1)


def small(tensor: Tensor, runs: int | None) -> bool:
    return tensor.numel() <= WIDE * (runs or 1)


def alike(tensors: Mapping[Any, Tensor], runs: int | None) -> Groups:
    """Names and (L, R, ...) of those that have one shape; half precision as float32."""
    groups: dict[Any, list[Any]] = {}
    for name, tensor in tensors.items():
        kind = (tensor.shape, tensor.dtype, tensor.device) if small(tensor, runs) else name
        groups.setdefault(kind, []).append(name)
    return [
        (n, at_least_float32(stacked_tensors([tensors[name] for name in n], runs)))
        for n in groups.values()
    ]


def norms(tensors: Sequence[Tensor], runs: int | None) -> tuple[list[int], Tensor]:
    """L2 norms (n, R) of the n different ones among tensors, and the id of each."""
    names, found = [], [torch.empty(0, runs or 1, device=tensors[0].device)]
    for ids, values in alike({id(tensor): tensor for tensor in tensors}, runs):
        values = values if values.dim() > 2 else values.unsqueeze(2)
        names += ids
        found.append(torch.linalg.vector_norm(values, dim=tuple(range(2, values.dim()))))
    return names, torch.cat(found)


def histograms(quantity: str, groups: Groups) -> Seen:
    """Of at most MOST evenly strided elements of each tensor."""
    return {tags(quantity, names): Sample(strided(values)) for names, values in groups}


def strided(values: Tensor) -> Tensor:
    """(L, R, ...) -> (L, R, N)."""
    n = values[0, 0].numel()
    if n <= MOST:
        return values.flatten(2) if values.dim() > 2 else values.unsqueeze(2)
    every = -(-n // MOST) | 1  # odd, so that it meets every column of a power-of-two width
    if values.is_contiguous():
        return values.flatten(2)[..., ::every]
    places = torch.arange(0, n, every, device=values.device)  # a copy of all would take far longer
    return values[(slice(None), slice(None), *torch.unravel_index(places, values.shape[2:]))]


def counted(values: Tensor) -> Histogram:
    """The histograms of (L, R, N). Counts are those of torch.histc, which takes one tensor a call
    and makes the host wait for its limits."""
    low, high = values.amin(2, keepdim=True), values.amax(2, keepdim=True)
    size = (high - low).clamp_min_(torch.finfo(values.dtype).tiny)
    place = (values - low).div_(size).mul_(BINS).long()
    place = place.clamp_(0, BINS - 1)  # the highest is in the last bin; nan in any
    ones = values.new_ones(()).expand_as(place)
    counts = values.new_zeros((*place.shape[:2], BINS)).scatter_add_(2, place, ones)
    return Histogram(counts, low.squeeze(2), high.squeeze(2))


def rarely(step: int) -> bool:
    """Whether a look at this step, counted from 0, has what changes slowly: those at 0, 7 and 63,
    and a fifth of the others, whatever their cadence; all where they are rare."""
    early = step < 100 and (step + 1) in (1, 8, 64)
    return early or (step >= 100 and step // 100 % 5 == 0)


def measure(record: Any, probes: Mapping[str, Callable[[Any], Seen]]) -> tuple[Scalars, Counted]:
    """Run the probes on one record of one run: {tag: value} and {tag: (counts, low, high)}."""
    return measured(record, probes)[0]


@torch.no_grad()
def measured(
    record: Any, probes: Mapping[str, Callable[[Any], Seen]]
) -> list[tuple[Scalars, Counted]]:
    """What `measure` gives, of each run in its place. One transfer from the device to the host,
    whatever the number of probes and runs; tags in the order of their quantities and layers."""
    runs = record.runs or 1
    with same_streams():
        seen = {t: v for probe in probes.values() for t, v in measured_by(record, probe).items()}
        if not seen:
            return [({}, {}) for _ in range(runs)]
        seen |= histograms_of({t: v.values for t, v in seen.items() if isinstance(v, Sample)})
        sizes = [t for v in seen.values() if isinstance(v, Norm) for t in v if t is not None]
        ids, of_ids = norms(sizes, record.runs) if sizes else ([], None)
        parts = [] if of_ids is None else [of_ids]
        for value in seen.values():
            parts += value if isinstance(value, Histogram) else [value]
        flat = [at_least_float32(part).reshape(-1) for part in parts if isinstance(part, Tensor)]
        host = torch.cat(flat).cpu().numpy()
    at = 0

    def take(layers: int, bins: int = 1) -> Any:
        nonlocal at
        begun, at = at, at + layers * runs * bins
        return host[begun:at].reshape(layers, runs, bins)

    wanted = {tag: value for tag, value in seen.items() if isinstance(value, Norm)}
    scalars = norm_values(
        wanted, dict(zip(ids, range(len(ids)), strict=True)), take(len(ids))[..., 0]
    )
    spread: dict[str, tuple] = {}
    for names, value in seen.items():
        names = names if isinstance(names, tuple) else (names,)
        if isinstance(value, Norm):
            continue
        if isinstance(value, Histogram):
            counts = take(len(names), value.counts.shape[-1]).astype(int).tolist()
            limits = [take(len(names))[..., 0].tolist() for _ in range(2)]
            spread |= zip(names, zip(counts, *limits, strict=True), strict=True)
        else:
            scalars |= zip(names, take(len(names))[..., 0].tolist(), strict=True)
    scalars = {tag: scalars[tag] for tag in in_order(tuple(scalars))}
    spread = {tag: spread[tag] for tag in in_order(tuple(spread))}
    return [
        (
            {tag: values[run] for tag, values in scalars.items()},
            {tag: tuple(part[run] for part in parts) for tag, parts in spread.items()},
        )
        for run in range(runs)
    ]


def norm_values(
    wanted: Mapping[str, Norm], places: Mapping[int, int], sizes: np.ndarray
) -> dict[str, list[float]]:
    """{tag: the figure of each run} of norms `sizes` (n, R), whose tensors' ids have `places`."""
    found = sizes[[places[id(norm.of)] for norm in wanted.values()]]
    shares = [place for place, norm in enumerate(wanted.values()) if norm.per is not None]
    with np.errstate(divide="ignore", invalid="ignore"):
        found[shares] /= sizes[[places[id(n.per)] for n in wanted.values() if n.per is not None]]
    return dict(zip(wanted, found.tolist(), strict=True))


def histograms_of(samples: dict[Tags, Tensor]) -> dict[Tags, Histogram]:
    """Those of one size at once, whoever wants them."""
    alike: dict[Any, list[Tags]] = {}
    for names, values in samples.items():
        alike.setdefault((values.shape[2], values.dtype, values.device), []).append(names)
    found = {}
    for own in alike.values():
        seen = counted(torch.cat([samples[names] for names in own]))
        parts = (part.split([len(names) for names in own]) for part in seen)
        found |= zip(own, map(Histogram, *parts), strict=True)
    return found


@lru_cache(16)
def in_order(tags: tuple[str, ...]) -> list[str]:
    """Quantities as they came, the layers of each from input to output."""
    quantities = list(dict.fromkeys(tag.partition("/")[0] for tag in tags))
    return sorted(tags, key=lambda tag: (quantities.index(tag.partition("/")[0]), tag))


def measured_by(record: Any, probe: Callable[[Any], Seen]) -> Seen:
    """What a probe says of a record; one that knows of no runs is asked of each."""
    if record.runs is None or hasattr(getattr(probe, "func", probe), "measures_all_runs"):
        return probe(record)
    found = [probe(of_run(record, run)) for run in range(record.runs)]
    return {tag: joined([own[tag] for own in found], isinstance(tag, tuple)) for tag in found[0]}


def of_run(record: Any, run: int) -> Any:
    """What was seen of the run in one place of a stack."""

    def own(held: Any, *names: str) -> Any:
        tensors = {name: getattr(held, name) for name in names}
        return replace(held, **{n: t[run] for n, t in tensors.items() if t is not None})

    layers = [
        replace(own(layer, "x", "out", "grad"), place=(run, record.runs)) for layer in record.layers
    ]
    parts = {
        name: {tag: tensor[run] for tag, tensor in getattr(record, name).items()}
        for name in ("params", "grads", "updates")
    }
    return replace(record, layers=layers, runs=None, **parts)


def joined(values: list[Any], layers: bool) -> Any:
    """What was found in each of R runs; of `layers`, the L is in front of the R."""
    kind = type(values[0])
    if kind is Sample:
        return Sample(torch.cat([value.values for value in values], 1))
    parts = zip(*values, strict=True) if kind in (Norm, Histogram) else [values]
    axis = int(layers and kind is not Norm)
    found = [None if part[0] is None else torch.stack(list(part), axis) for part in parts]
    return kind(*found) if kind in (Norm, Histogram) else found[0]


def write(log: Any, step: int, scalars: Scalars, histograms: Counted) -> None:
    """The rows of one look."""
    log.scalars(step, scalars)
    for tag, (counts, low, high) in histograms.items():
        log.histogram(step, tag, counts, low, high)
