"""How train mode and eval mode differ on the same training batch. B batch."""

from typing import Any

import torch
from torch import Tensor, nn

from trainlab.observe.capture import eager, unmoved
from trainlab.training.modules import BATCH_NORMS, DROPOUTS
from trainlab.training.trainer import evaluating


@torch.no_grad()
def both_modes(trainer: Any, x: Tensor, y: Tensor) -> dict[str, float]:
    """Loss on x (B, ...), y (B,) in the training loop's mode and in eval mode; {} where they are
    equal and there is neither batch norm nor dropout.

    Of those layers: the shares `modes/resting`, in eval mode during training, and `modes/live`, in
    train mode during evaluation; `modes/statistics`, the summed norm of the running statistics that
    training should change; the largest dropout rate. Modes, buffers and random streams are
    restored.
    """
    model = eager(trainer.model)
    layers = [m for m in model.modules() if isinstance(m, BATCH_NORMS | DROPOUTS)]
    with unmoved(model):
        loss = float(trainer.criterion(model(x), y))
        away = [m for m in layers if not m.training]
        with evaluating(model):
            eval_loss = float(trainer.criterion(model(x), y))
            live = [m for m in layers if m.training or getattr(m, "running_mean", m) is None]
            model.train()
            resting = [m for m in away if m.training and not _frozen(m)]
    values = {"modes/train_loss": loss, "modes/eval_loss": eval_loss}
    if not layers:
        return {} if loss == eval_loss else values
    values["modes/resting"] = len(resting) / len(layers)
    values["modes/live"] = len(live) / len(layers)
    values["modes/dropout"] = max((m.p for m in layers if isinstance(m, DROPOUTS)), default=0.0)
    held = [m for m in layers if getattr(m, "running_mean", None) is not None and not _frozen(m)]
    if held:
        sizes = [t.double().norm() for m in held for t in (m.running_mean, m.running_var)]
        values["modes/statistics"] = float(torch.stack(sizes).sum())
    return values


def _frozen(module: nn.Module) -> bool:
    """A norm without trainable parameters: its statistics are frozen on purpose."""
    return isinstance(module, BATCH_NORMS) and not any(p.requires_grad for p in module.parameters())
