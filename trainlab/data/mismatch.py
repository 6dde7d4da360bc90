"""`preprocess.test=WORD`: validation and test go through another word's preprocessing."""

from collections.abc import Callable
from typing import Any

from omegaconf import OmegaConf

from trainlab.config import hints, words
from trainlab.data.splits import Splits
from trainlab.errors import ConfigError


def other(word: str, door: Callable, splits: Splits, usual: Any) -> Any:
    """The preprocessing `word` with the keys of its file, fitted on the training split too.

    A deliberate mistake: what is trained on `usual` is judged on something else. Raises ConfigError
    for an unknown word and for one that gives samples of another shape.
    """
    known = words.groups()["preprocess"]
    if word not in known:
        raise hints.no_word("preprocess.test", word, known, None)
    node = OmegaConf.load(words.conf() / "preprocess" / f"{word}.yaml")
    fitted = door(OmegaConf.create({"preprocess": node})["preprocess"])
    fitted = fitted(splits.train.x, splits.max_value)
    shapes = [tuple(each.shape(splits.shape)) for each in (usual, fitted)]
    if shapes[0] != shapes[1]:
        raise ConfigError(
            f"preprocess.test = {word}: gives samples {shapes[1]}, the network takes {shapes[0]}; "
            f"use a word that keeps the shape, such as preprocess.test=none"
        )
    return fitted
