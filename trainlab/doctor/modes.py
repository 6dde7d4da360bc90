"""How training mode and evaluation mode differ on one and the same training batch. B batch."""

from typing import Any

import torch
from torch import Tensor, nn

from trainlab.observe.capture import eager, unmoved
from trainlab.training.modules import BATCH_NORMS, DROPOUTS
from trainlab.training.trainer import evaluating


@torch.no_grad()
def both_modes(trainer: Any, x: Tensor, y: Tensor) -> dict[str, float]:
    """The loss on x (B, ...), y (B,) in the mode it trains in and in evaluation mode; {} where they
    are the same and there is neither batch norm nor dropout.

    Of these layers: the shares `modes/resting` in evaluation mode while it trains and `modes/live`
    in training mode while it is evaluated; `modes/statistics`, the joint size of the running
    statistics that training steps should move; the largest rate of dropout. Modes, buffers and
    random streams are left as they were.
    """
    model = eager(trainer.model)
    layers = [m for m in model.modules() if isinstance(m, BATCH_NORMS | DROPOUTS)]
    with unmoved(model):
        loss = float(trainer.criterion(model(x), y))
        away = [m for m in layers if not m.training]
        with evaluating(model):
            calm = float(trainer.criterion(model(x), y))
            live = [m for m in layers if m.training or getattr(m, "running_mean", m) is None]
            model.train()
            resting = [m for m in away if m.training and not _frozen(m)]
    seen = {"modes/train_loss": loss, "modes/eval_loss": calm}
    if not layers:
        return {} if loss == calm else seen
    seen["modes/resting"], seen["modes/live"] = (len(m) / len(layers) for m in (resting, live))
    seen["modes/dropout"] = max((m.p for m in layers if isinstance(m, DROPOUTS)), default=0.0)
    held = [m for m in layers if getattr(m, "running_mean", None) is not None and not _frozen(m)]
    if held:
        sizes = [t.double().norm() for m in held for t in (m.running_mean, m.running_var)]
        seen["modes/statistics"] = float(torch.stack(sizes).sum())
    return seen


def _frozen(module: nn.Module) -> bool:
    """A norm without anything to train: that its statistics rest is meant so."""
    return isinstance(module, BATCH_NORMS) and not any(p.requires_grad for p in module.parameters())
