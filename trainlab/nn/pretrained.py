"""Networks of torchvision, with our head and activation. Named by conf/model/. B batch, C channels,
K classes."""

import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from types import ModuleType

import torch
from torch import nn

from trainlab.errors import ConfigError
from trainlab.nn.activation import sized
from trainlab.nn.cnn import images
from trainlab.training.trainer import evaluating

# what stands between layers; Sigmoid and Hardsigmoid are gates in torchvision's networks
HIDDEN = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Hardswish)


def torchvision(
    shape: Sequence[int],
    classes: int,
    activation: Callable[[], nn.Module],
    norm: Callable[[nn.Module, nn.Module | None], nn.Module],
    name: str = "resnet18",
    weights: str | None = None,
    dropout: float = 0.0,
) -> nn.Module:
    """A classifier of torchvision.models by its name, (B, C, H, W) -> logits (B, K).

    The first convolution takes C channels (pretrained ones are averaged over theirs, which keeps
    what a grey image gives), the head gives K logits, `dropout` stands before it, and `activation`
    replaces the hidden activations that are modules (all but the last one of densenets). It keeps
    its own norms, so `norm` must be none, and its own dropout. `weights` is one of torchvision's
    names, such as DEFAULT, and is downloaded.
    Raises ConfigError for a name, weights, norm or image size that does not fit.
    """
    images("torchvision", shape)
    if len(list(norm(nn.Conv2d(1, 1, 1), None).modules())) > 2:
        raise ConfigError(
            "norm: model=torchvision keeps the norms of torchvision's own network; use norm=none, "
            "or model=resnet18, where norm is free"
        )
    model = _found(_imported(), name, weights)
    _adapt_first(model, shape[0], weights is not None)
    _adapt_head(model, name, classes, dropout)
    _activate(model, name, activation)
    _try(model, name, shape)
    model.pretrained = weights
    return model


def _imported() -> ModuleType:
    try:
        import torchvision  # slow to import and may clash with torch
    except ModuleNotFoundError:
        raise ConfigError(
            "model = torchvision: needs torchvision, which is not installed; pip install "
            "torchvision, or use model=resnet18"
        ) from None
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        raise ConfigError(
            f"model = torchvision: torch {torch.__version__} and torchvision "
            f"{version('torchvision')} are builds that do not fit together ({error}); install both "
            "from one index, or use model=resnet18"
        ) from None
    return torchvision.models


def _found(models: ModuleType, name: str, weights: str | None) -> nn.Module:
    import difflib

    names = models.list_models(module=models)
    if name not in names:
        near = difflib.get_close_matches(name, names, 1) or ["resnet18"]
        raise ConfigError(
            f"model.name = {name}: not a classifier of torchvision ({len(names)} are, such as "
            f"resnet50, mobilenet_v3_small, vit_b_16); use model.name={near[0]}"
        )
    try:
        chosen = models.get_model_weights(name)[weights] if weights else None
    except KeyError:
        known = [*models.get_model_weights(name).__members__, "DEFAULT"]
        raise ConfigError(
            f"model.weights = {weights}: {name} has {', '.join(known)}; use model.weights=DEFAULT, "
            "or null"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # two networks announce a change of their initialisers
            return models.get_model(name, weights=chosen)
    except OSError as error:
        raise ConfigError(
            f"model.weights = {weights}: not fetched ({error}); use model.weights=null, or put the "
            f"file of {chosen.url} into {torch.hub.get_dir()}/checkpoints"
        ) from None


def _adapt_first(model: nn.Module, channels: int, trained: bool) -> None:
    where, conv = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    if conv.in_channels == channels:
        return
    new = nn.Conv2d(
        channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding,
        conv.dilation, bias=conv.bias is not None,
    )  # fmt: skip
    if trained:
        with torch.no_grad():  # (O, 3, h, w): the same sum over the channels
            mean = conv.weight.mean(1, keepdim=True) * (conv.in_channels / channels)
            new.weight.copy_(mean.expand_as(new.weight))
            if conv.bias is not None:
                new.bias.copy_(conv.bias)
    model.set_submodule(where, new)


def _adapt_head(model: nn.Module, name: str, classes: int, dropout: float) -> None:
    if getattr(model, "aux_logits", False):
        raise ConfigError(f"model.name = {name}: has several heads; use model.name=resnet18")
    kinds = nn.Linear | nn.Conv2d  # squeezenet ends in a convolution
    where, last = [(n, m) for n, m in model.named_modules() if isinstance(m, kinds)][-1]
    if isinstance(last, nn.Linear):
        head = nn.Linear(last.in_features, classes)
    else:
        head = nn.Conv2d(last.in_channels, classes, last.kernel_size)
    model.set_submodule(where, nn.Sequential(nn.Dropout(dropout), head) if dropout else head)


def _activate(model: nn.Module, name: str, activation: Callable[[], nn.Module]) -> None:
    """Each hidden activation by one of ours, of the width of the layer or norm before it."""
    width = 0
    for where, module in list(model.named_modules()):
        width = getattr(module, "out_channels", getattr(module, "out_features", width))
        if type(module) in HIDDEN:
            before, new = sized(activation, width)
            if before != width:
                raise ConfigError(
                    f"activation: makes {width} units of {before}, and the layers of {name} put "
                    f"out {width}; use model=resnet18, which is built for it"
                )
            model.set_submodule(where, new)


def _try(model: nn.Module, name: str, shape: Sequence[int]) -> None:
    """One forward pass of zeros: what the network says to images of this size."""
    try:
        with torch.no_grad(), evaluating(model):
            model(torch.zeros(1, *shape))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"model.name = {name}: does not work on {'x'.join(map(str, shape))} with this "
            f"activation ({reason}); use model.name=resnet18, or model=cnn"
        ) from None
