"""Spaces from the words of a command line, and a driver of samplers that scores by a formula."""

import math

from hydra.core.override_parser.overrides_parser import OverridesParser

from trainlab.cli import compose
from trainlab.sweeps.search.space import Space


def space_of(*lines: str) -> Space:
    with compose.hydra_session() as hydra:
        parser = OverridesParser.create(config_loader=hydra.config_loader)
        return Space.of(parser.parse_overrides(list(lines)))


LR = "optim.lr=tag(log,interval(1e-4,1))"
WD = "optim.weight_decay=tag(log,interval(1e-6,1e-2))"
MIXED = space_of(LR, WD, "activation=relu,elu,tanh")


def bowl(values, until=1.0, fails=True):
    """Least at lr 0.01 and elu; far off it fails."""
    off = abs(math.log10(float(values["optim.lr"])) + 2)
    return (
        None
        if fails and off > 1.7
        else off + (values.get("activation", "elu") != "elu") - 0.01 * until
    )


def driven(generator, score=bowl, known=()):
    """[(batch, scores)] to the end of a sampler; `known` are scores sent instead of new ones."""
    rounds, known = [], list(known)
    scores = None
    while True:
        try:
            batch = next(generator) if scores is None else generator.send(scores)
        except StopIteration:
            return rounds
        scores = known.pop(0) if known else [score(ask.values, ask.until) for ask in batch]
        assert len(scores) == len(batch)
        rounds.append((batch, scores))


def asks(generator, score=lambda *_: 0.0):
    return [ask for batch, _ in driven(generator, score) for ask in batch]
