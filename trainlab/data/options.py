"""Options that apply to any data set: `data.train_size`, `data.classes`, ...

One pure function from splits to splits, so no data source needs to know these keys. N samples, K
classes.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from trainlab.config.keys import as_typed
from trainlab.data.splits import Split, Splits, stratified
from trainlab.errors import ConfigError
from trainlab.training.randomness import stream


def apply_options(
    splits: Splits,
    seed: int,
    *,
    train_size: int | None = None,
    classes: Sequence[str] | None = None,
    features: Sequence[str] | None = None,
    label_noise: float = 0.0,
    imbalance: float = 1.0,
    val_fraction: float | None = None,
    fold: int | None = None,
    folds: int = 5,
    order: str = "shuffled",
) -> Splits:
    """The splits with these options, in this order: classes, features, validation, imbalance,
    size, label noise. Test samples change only by `classes` and `features`.

    Raises ConfigError for options that this data set does not allow.
    """
    if classes is not None:
        splits = keep_classes(splits, _positions("data.classes", classes, splits.classes, 2))
    if features is not None:
        splits = keep_columns(splits, features)
    if fold is not None and val_fraction is not None:
        raise ConfigError(
            f"data.fold = {fold}: a fold is the validation split; leave data.val_fraction out"
        )
    if fold is not None:
        splits = split_fold(splits, fold, folds, seed)
    if val_fraction is not None:
        splits = resplit_validation(splits, val_fraction, seed)
    train = splits.train
    if imbalance < 1:
        train = train.take(imbalanced(train.y, len(splits.classes), imbalance, seed))
    if train_size is not None:
        train = train.take(_stratified_part(train.y, train_size, seed))
    if label_noise > 0:
        train = Split(train.x, mislabelled(train.y, len(splits.classes), label_noise, seed))
    # sorted by label, and trained on in that order (see Bench.fresh)
    if order == "sorted":
        train = train.take(train.y.argsort(stable=True))
    return replace(splits, train=train)


def _positions(key: str, wanted: Sequence[str], names: Sequence[str], least: int) -> list[int]:
    """Positions in `names` of the names or numbers `wanted`, sorted."""
    positions = []
    for name in map(str, wanted):
        number = int(name) if name.isdecimal() else len(names)
        if name in names:
            number = names.index(name)
        if number >= len(names):
            raise ConfigError(
                f"{key} = {as_typed(list(wanted))}: {name} is not one of {', '.join(names[:100])}; "
                f"give names, or numbers 0 to {len(names) - 1}"
            )
        positions.append(number)
    if len(set(positions)) < max(least, len(positions)):
        raise ConfigError(
            f"{key} = {as_typed(list(wanted))}: must be {least} or more different ones; "
            f"such as {key}=[{names[0]},{names[-1]}]"
        )
    return sorted(positions)


def keep_classes(splits: Splits, kept: list[int]) -> Splits:
    """Keep only the samples of the classes `kept`, renumbered 0, 1, ... in their order."""
    new = torch.full((len(splits.classes),), -1)
    new[kept] = torch.arange(len(kept))

    def only(split: Split) -> Split:
        split = split.take((new[split.y] >= 0).nonzero().flatten())
        return Split(split.x, new[split.y])

    parts = {name: only(split) for name, split in splits.parts().items()}
    return replace(splits, **parts, classes=tuple(splits.classes[k] for k in kept))


def keep_columns(splits: Splits, wanted: Sequence[str]) -> Splits:
    """Keep only these columns of a table, by name or number."""
    if len(splits.shape) != 1:
        raise ConfigError(
            f"data.features = {as_typed(list(wanted))}: data={splits.name} has images, which "
            f"have no columns; leave data.features out"
        )
    names = splits.columns or tuple(map(str, range(splits.shape[0])))
    kept = _positions("data.features", wanted, names, 1)
    parts = {name: Split(part.x[:, kept], part.y) for name, part in splits.parts().items()}
    return replace(splits, **parts, columns=tuple(names[k] for k in kept))


def _train_and_val(splits: Splits) -> Split:
    """Training and validation samples as one split."""
    a, b = splits.train, splits.val
    x = torch.cat([a.x, b.x]) if isinstance(a.x, Tensor) else a.x.join(b.x)
    return Split(x, torch.cat([a.y, b.y]))


def split_fold(splits: Splits, fold: int, folds: int, seed: int) -> Splits:
    """Split training and validation into `folds` stratified parts; part `fold` is validation."""
    both = _train_and_val(splits)
    if not fold < folds <= len(both):
        raise ConfigError(
            f"data.fold = {fold}: must be 0 to {folds - 1}, of data.folds = {folds} of "
            f"{len(both)} samples; such as data.fold=0"
        )
    sizes = [len(both) // folds + (k < len(both) % folds) for k in range(folds)]
    parts = stratified(both.y, sizes, seed)
    rest = torch.cat([part for k, part in enumerate(parts) if k != fold]).sort().values
    return replace(splits, train=both.take(rest), val=both.take(parts[fold]))


def resplit_validation(splits: Splits, fraction: float, seed: int) -> Splits:
    """Split training and validation again: round(fraction * N) of them are validation."""
    both = _train_and_val(splits)
    size = round(fraction * len(both))
    if not 0 < size < len(both):
        raise ConfigError(
            f"data.val_fraction = {fraction}: {size} of {len(both)} samples leave a split empty; "
            f"such as data.val_fraction=0.2"
        )
    train, val = stratified(both.y, (len(both) - size, size), seed)
    return replace(splits, train=both.take(train), val=both.take(val))


def imbalanced(y: Tensor, classes: int, ratio: float, seed: int) -> Tensor:
    """Sorted indices of a training split with exponentially falling class sizes.

    n_k = n * ratio^(k / (K - 1)), Cao et al. 2019, https://arxiv.org/abs/1906.07413, with the
    largest n that every class can honour; at least one sample each.
    """
    share = ratio ** (torch.arange(classes, dtype=torch.float64) / (classes - 1))  # 1 ... ratio
    n = (y.bincount(minlength=classes) / share).min()
    sizes = (n * share + 1e-9).floor().long().clamp(min=1)
    kept = []
    for label, size in enumerate(sizes.tolist()):
        members = (y == label).nonzero().flatten()
        drawn = torch.randperm(len(members), generator=stream(seed, "imbalance", label))
        kept.append(members[drawn[:size]])
    return torch.cat(kept).sort().values


def _stratified_part(y: Tensor, size: int, seed: int) -> Tensor:
    """Sorted indices of a stratified subset of `size` samples."""
    if size > len(y):
        raise ConfigError(
            f"data.train_size = {size}: there are {len(y)} training samples; use at most {len(y)}"
        )
    part = stratified(y, (size, len(y) - size), seed)[0]
    if len(y[part].unique()) < len(y.unique()):
        raise ConfigError(
            f"data.train_size = {size}: leaves a class without samples; use {4 * len(y.unique())}"
        )
    return part


def mislabelled(y: Tensor, classes: int, share: float, seed: int) -> Tensor:
    """y with round(share * N) labels, drawn at random, each replaced by one of the K - 1 others.

    Symmetric noise: Zhang et al. 2017, https://arxiv.org/abs/1611.03530.
    """
    generator = stream(seed, "label_noise")
    hit = torch.randperm(len(y), generator=generator)[: round(share * len(y))]
    moved = torch.randint(1, classes, (len(hit),), generator=generator)
    noisy = y.clone()
    noisy[hit] = (y[hit] + moved) % classes
    return noisy
