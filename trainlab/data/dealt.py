"""From samples to three splits: with an official test split, or without."""

from collections.abc import Sequence
from typing import Any

from trainlab.data.sources import NO_FLIP
from trainlab.data.splits import Split, Splits, stratified
from trainlab.errors import ConfigError, DataError

FOR_IMAGES = ("flip", *NO_FLIP)  # the augmentations that keep the labels of photographs
FOR_TABLES = ("noise", "mixup")
SHARES = (0.7, 0.1, 0.2)  # of training, validation and test where nothing is given


def dealt(both: Split, classes: Sequence[str], split_seed: int, **told: Any) -> Splits:
    """70 / 10 / 20 %, stratified. `told` is what else Splits takes: max_value, name, keeps, ..."""
    n = len(both)
    val, test = round(SHARES[1] * n), round(SHARES[2] * n)
    if min(val, test) < 1:
        raise DataError(
            f"data = {told['name']}: {n} samples are too few to deal into three splits; "
            f"give at least 5"
        )
    parts = stratified(both.y, (n - val - test, val, test), split_seed)
    return Splits(*(both.take(part) for part in parts), tuple(classes), **told)


def with_test(
    both: Split, test: Split, classes: Sequence[str], split_seed: int, val_size: int, **told: Any
) -> Splits:
    """The official test split; of the rest `val_size` samples, stratified, are validation."""
    if not 0 < val_size < len(both):
        usual = max(len(both) // 10, 1)
        raise ConfigError(
            f"data.val_size = {val_size}: must be 1 to {len(both) - 1}; type data.val_size={usual}"
        )
    train, val = stratified(both.y, (len(both) - val_size, val_size), split_seed)
    return Splits(both.take(train), both.take(val), test, tuple(classes), **told)
