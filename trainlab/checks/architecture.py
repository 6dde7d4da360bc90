"""What is unusual in the network, and may be meant. Named by conf/check/."""

from torch import nn

from trainlab.checks import PASS, Fresh, Verdict
from trainlab.training.modules import BATCH_NORMS


def architecture(fresh: Fresh) -> Verdict:
    """Tensors under two names (tied), and biases that a batch norm right behind takes out again.
    Never an alarm."""
    model = fresh().model
    names: dict[int, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(name)
    tied = [" = ".join(same) for same in names.values() if len(same) > 1]
    idle = [f"{a}.bias" for a, b in _pairs(model) if _takes_out(a, b, model)]
    told = [f"tied: {', '.join(tied[:3])}"] if tied else []
    told += [f"no effect before batch norm: {', '.join(idle[:3])}"] if idle else []
    cause = "arch.tied" if tied else "arch.bias" if idle else ""
    saw = "; ".join(told) or "no tied weights, no bias before a batch norm"
    return Verdict("architecture", PASS, saw, cause=cause)


def _pairs(model: nn.Module) -> list[tuple[str, str]]:
    """Names of modules without children that stand next to each other."""
    leaves = [name for name, m in model.named_modules() if not any(True for _ in m.children())]
    return list(zip(leaves, leaves[1:], strict=False))


def _takes_out(name: str, after: str, model: nn.Module) -> bool:
    layer, norm = model.get_submodule(name), model.get_submodule(after)
    if not isinstance(norm, BATCH_NORMS):
        return False
    wide = getattr(layer, "out_features", getattr(layer, "out_channels", None))
    return getattr(layer, "bias", None) is not None and wide == norm.num_features
