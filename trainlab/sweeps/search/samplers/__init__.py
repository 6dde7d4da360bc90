"""Search methods, one a file. A sampler is a generator: it yields a list of `Ask`, is sent the
score of each (lower is better; None: it failed or diverged), and ends by returning. It is
deterministic in its arguments and these scores, so a sweep that was cut off is replayed with the
scores it has."""

from typing import Any

from trainlab.config.keys import Key
from trainlab.errors import ConfigError, as_typed


def share(name: str, value: Any, usual: float) -> None:
    """Raise ConfigError unless a sampler's own setting is in (0, 1]; `usual` is what to type."""
    rule, key = Key(float, gt=0, le=1), f"hydra.sweeper.sampler.{name}"
    if not rule.accepts(value):
        raise ConfigError(f"{key} = {as_typed(value)}: must be {rule.allowed()}; use {key}={usual}")
