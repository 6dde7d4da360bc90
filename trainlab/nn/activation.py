"""Activations. Named by conf/activation/."""

from collections.abc import Callable

from torch import nn


def sized(activation: Callable[[], nn.Module], width: int) -> tuple[int, nn.Module]:
    """What the layer before must put out, and the activation that makes `width` units of it."""
    return width, activation()
