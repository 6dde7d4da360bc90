"""Where data comes from: what is embedded. Named by conf/data/."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainlab.config import keys
from trainlab.data.splits import Split, Splits, stratified

DIGITS = Path(__file__).parent.parent / "data_files" / "digits.npz"
# the augmentations that keep the labels of what is written: a mirrored 2 is no digit
NO_FLIP = ("shift", "pad_crop", "rotate", "noise", "cutout", "jitter", "mixup", "cutmix")


def loaded(door: Callable, node: Any, options: dict[str, Any]) -> Splits:
    """The splits of a data word, with what the user changed about them (options.py)."""
    splits = door(node)
    if options == keys.defaults()["data"]:
        return splits
    from trainlab.data.options import chosen

    return chosen(splits, node.get("split_seed", 0), **options)


def digits(split_seed: int = 0) -> Splits:
    """1,797 real 8x8 digits, values 0 to 16, embedded: 1,257 / 180 / 360, stratified.

    Alpaydin and Kaynak, Optical Recognition of Handwritten Digits (UCI, 1998),
    https://doi.org/10.24432/C50P49, CC BY 4.0.
    """
    with np.load(DIGITS, allow_pickle=False) as file:
        x, y = torch.from_numpy(file["x"]), torch.from_numpy(file["y"]).long()
    parts = (Split(x, y).take(part) for part in stratified(y, (1257, 180, 360), split_seed))
    return Splits(*parts, tuple("0123456789"), max_value=16.0, name="digits", keeps=NO_FLIP)
