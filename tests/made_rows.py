"""Rows of a healthy run, made by hand, and what to change in them."""

import math

import torch
from torch import nn

from trainlab.doctor.examine import findings
from trainlab.observe.capture import recorded_layers
from trainlab.observe.saturation import slope_of

LAYERS = "01.tanh", "02.tanh", "03.logits"
WEIGHTS = "01.a.weight", "02.b.weight", "03.head.weight"
LAST = 600


def loss(step):
    """From 2.3 down to 0.5."""
    return 0.5 + 1.8 * math.exp(-step / 150)


def both(step):
    """Dropout makes training worse, statistics that lag make evaluation so; these move."""
    seen = {"modes/train_loss": 1.2 * loss(step), "modes/eval_loss": 1.1 * loss(step)}
    layers = {"modes/dropout": 0.5, "modes/live": 0.0, "modes/resting": 0.0}
    return seen | layers | {"modes/statistics": 5 + step / 100}


def slope_rows(function, layer):
    """What the probe writes at the first step of the slope of this module."""
    with recorded_layers(function) as layers:
        function(torch.randn(4, 3))
    slope = slope_of(layers[0])
    facts = ("sides", "usual", "wide")
    return {f"activation_flat_{fact}/{layer}": float(getattr(slope, fact)) for fact in facts}


def rows(changes=None):
    """A healthy run of 600 steps with something left to learn: probes every 100, training rows
    every 50, validation every 60, with both modes of a net with batch norm and dropout. `changes`:
    tag, or all tags that begin so, -> value of a step, None to leave it out."""

    def told(step, values):
        row = {"step": step}
        for tag, value in values.items():
            change = next((c for t, c in (changes or {}).items() if tag.startswith(t)), value)
            change = change(step, tag) if callable(change) else change
            row |= {} if change is None else {tag: change}
        return row

    yield {"text": "recipe", "markdown": ""}
    yield {"curve": "schedule/lr", "values": (changes or {}).get("curve", [0.05] * 100)}
    yield told(0, {"chance/loss": 2.303, "chance/accuracy": 0.1, "start/loss": 2.4} | both(0))
    for step in range(1, LAST + 1):
        if step % 100 == 1:
            probe = {}
            for layer in LAYERS:
                probe |= {f"activation_mean/{layer}": 0.1, f"activation_std/{layer}": 1.0}
                probe |= {f"activation_unit_std/{layer}": 0.8, f"gradient_norm/{layer}": 0.1}
            for layer in LAYERS[:-1]:
                probe[f"activation_saturated/{layer}"] = 0.04
                probe |= slope_rows(nn.Tanh(), layer) if step == 1 else {}
            for name in WEIGHTS:
                probe |= {f"weight_norm/{name}": 5.0, f"update_ratio/{name}": 2e-3}
                probe[f"weight_gradient_norm/{name}"] = 0.2
                limits = told(step, {"low": -0.3, "high": 0.3})
                yield {"histogram": f"weight/{name}", "counts": [1] * 64} | limits
            yield told(step, probe)
        if step % 50 == 0:
            seen = {"train/loss": loss(step), "train/accuracy": 0.8, "optim/lr": 0.05}
            yield told(step, seen | {"optim/clipped": 0.1, "penalty/l2": 0.01})
        if step % 60 == 0:
            seen = {"val/loss": loss(step) + 0.1, "val/accuracy": 0.78} | both(step)
            yield told(step, seen | {f"activation_dead/{layer}": 0.02 for layer in LAYERS[:-1]})
    yield told(LAST, {"best/val_loss": 0.5})


def names(changes=None):
    return [f.id for f in findings(rows(changes)) if f.severity != "info"]


def by_layer(*values):
    """A profile over LAYERS, or any three names that begin with 01, 02, 03."""
    return lambda step, tag: values[int(tag.partition("/")[2][:2]) - 1]


STUCK = {"train/loss": 2.303, "train/accuracy": 0.1, "val/loss": 2.303, "val/accuracy": 0.1}
OVERFIT = {
    "val/loss": lambda step, _: 0.6 + abs(step - 180) / 300,
    "train/loss": lambda step, _: 2.3 * math.exp(-step / 150),
}
