"""What is unusual in the network, perhaps on purpose. Named by conf/check/."""

from torch import nn

from trainlab.checks import PASS, Fresh, Verdict
from trainlab.training.modules import BATCH_NORMS


def architecture(fresh: Fresh) -> Verdict:
    """Tied parameters (one tensor, two names), and biases that the batch norm behind them cancels.
    Always PASS: both may be meant."""
    model = fresh().model
    names: dict[int, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(name)
    tied = [" = ".join(same) for same in names.values() if len(same) > 1]
    idle = [f"{a}.bias" for a, b in _pairs(model) if _cancels_bias(a, b, model)]
    remarks = []
    if tied:
        remarks.append(f"tied: {', '.join(tied[:3])}")
    if idle:
        remarks.append(f"no effect before batch norm: {', '.join(idle[:3])}")
    cause = "arch.tied" if tied else "arch.bias" if idle else ""
    saw = "; ".join(remarks) or "no tied weights, no bias before a batch norm"
    return Verdict("architecture", PASS, saw, cause=cause)


def _pairs(model: nn.Module) -> list[tuple[str, str]]:
    """Names of neighbouring modules without children, in pairs."""
    leaves = [name for name, m in model.named_modules() if not any(True for _ in m.children())]
    return list(zip(leaves, leaves[1:], strict=False))


def _cancels_bias(name: str, after: str, model: nn.Module) -> bool:
    """Whether module `after` is a batch norm over the outputs of `name`, which has a bias."""
    layer, norm = model.get_submodule(name), model.get_submodule(after)
    if not isinstance(norm, BATCH_NORMS):
        return False
    wide = getattr(layer, "out_features", getattr(layer, "out_channels", None))
    return getattr(layer, "bias", None) is not None and wide == norm.num_features
