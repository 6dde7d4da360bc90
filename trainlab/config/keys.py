"""The config keys of trainlab itself: type, default, unit, range and help of each.

The check of the command line, the error messages, `--help` and the tests all read this declaration.
The ranges of the common group keys (optim.lr, model.dropout, ...) are here too; any other group key
has the type of its value in the YAML file.
"""

import dataclasses
import hashlib
import json
import math
import operator
import re
from collections.abc import Callable
from typing import Any

from trainlab.errors import as_typed as as_typed  # callers of check() print values too

DEVICE = {"form": r"auto|cpu|cuda(:\d+)?", "says": "auto, cpu, cuda or cuda:N"}
CADENCE = {"form": r"[1-9]\d{0,11}(ep)?", "says": "steps (a whole number >= 1) or epochs (1ep)"}
FACTOR = {"form": r"[^:]+:\d*\.?\d+(e-?\d+)?", "says": "pattern:factor, such as head*:10"}
NAMED = {"form": ".+", "says": "a name or a number", "each": True, "null": True}
PACKAGE = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"
BATCH = {"form": r"full|[1-9]\d{0,8}", "says": "full or a whole number >= 1"}
PRECISIONS, STATISTICS = ("fp32", "tf32", "bf16", "fp16"), ("ema", "full_pass")
SEEDS = 2**32 - 1
MONITOR = {"form": r"val/[A-Za-z]\w*", "says": "val/loss, or val/ and a word of metric"}
NAMES = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}
SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


@dataclasses.dataclass(frozen=True)
class Key:
    """The values a key may have. `each`: a list of such values; `null`: null is allowed too."""

    kind: type
    default: Any = None
    help: str = ""
    unit: str = ""
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    choices: tuple[str, ...] = ()  # for a number: words that are allowed as well
    form: str = ""  # a regular expression; messages show `says` instead
    says: str = ""
    each: bool = False
    null: bool = False

    def bounds(self) -> dict[str, float]:
        """Those of ge, gt, le and lt that are set: {"gt": 0}."""
        return {name: getattr(self, name) for name in SIGNS if getattr(self, name) is not None}

    def allowed(self) -> str:
        """The allowed values in words: `a finite number > 0`."""
        text = self.says or NAMES[self.kind]
        if self.choices and self.kind is str:
            text = "one of " + ", ".join(self.choices)
        bounds = [f"{SIGNS[name]} {bound}" for name, bound in self.bounds().items()]
        text = " ".join([text, " and ".join(bounds)]).strip()
        if self.kind is not str:
            text = " or ".join([text, *self.choices])
        if self.each:
            text = f"a list, each {text}"
        return f"null or {text}" if self.null else text

    def accepts(self, value: Any) -> bool:
        """Whether one value is allowed; `check` passes the members of a list one by one."""
        if value is None or self.each:
            return value is None and self.null
        if type(value) is str and value in self.choices:
            return True
        if self.form and type(value) is int:
            value = str(value)
        if type(value) not in ((int, float) if self.kind is float else (self.kind,)):
            return False
        if self.kind is str:
            fits = not self.form or re.fullmatch(self.form, value)
            return bool(value and fits and not self.choices)
        inside = (getattr(operator, name)(value, bound) for name, bound in self.bounds().items())
        return abs(value) < math.inf and all(inside)


OWN_KEYS = {
    "seed": Key(int, 0, "random seed of weights, data order and dropout", ge=0, le=SEEDS),
    "device": Key(str, "auto", "auto: the GPU if there is one", **DEVICE),
    "threads": Key(int, 1, "CPU threads; the count may change last bits", ge=1, le=1024),
    "epochs": Key(int, 30, "length of the training", "epochs", ge=1, le=1_000_000),
    "max_steps": Key(int, None, "upper limit on training steps", "steps", ge=1, null=True),
    "pause_at": Key(float, None, "pause at this fraction of the steps", gt=0, lt=1, null=True),
    "batch_size": Key(str, 32, "samples per step", "samples", **BATCH),
    "accumulate": Key(int, 1, "parts per batch; batch norm sees each part alone", ge=1, le=2**20),
    "monitor": Key(str, "val/loss", "metric that selects the best weights", **MONITOR),
    "penalty.l1": Key(float, 0.0, "add l1 * |w| to the loss; with l2: elastic net", ge=0),
    "penalty.l2": Key(float, 0.0, "add l2/2 * |w|^2 to the loss; equals SGD's weight_decay", ge=0),
    "clip.norm": Key(float, None, "largest joint L2 norm of all gradients", gt=0, null=True),
    "clip.value": Key(float, None, "largest element of a gradient", gt=0, null=True),
    "clip.adaptive": Key(float, None, "largest |gradient| / |weights| of a unit", gt=0, null=True),
    "constraint.max_norm": Key(float, None, "largest norm of a unit's weights", gt=0, null=True),
    "constraint.unit_norm": Key(bool, False, "scale each unit's incoming weights to norm 1"),
    "groups.lr": Key(str, [], "factors on lr by parameter name, [head*:10]", each=True, **FACTOR),
    "groups.decay": Key(str, [], "factors on weight_decay, [*bias:1]", each=True, **FACTOR),
    "groups.freeze": Key(str, [], "parameters that are not trained, [0.*]", each=True),
    "groups.layer_decay": Key(float, 1.0, "lr of a layer / lr of the next one", gt=0, le=1),
    "groups.decay_all": Key(bool, False, "apply weight decay to biases and norms too"),
    "average.ema": Key(float, None, "decay of the weights' EMA, 0.999", gt=0, lt=1, null=True),
    "average.swa": Key(float, None, "average weights from this fraction on", ge=0, lt=1, null=True),
    "early_stop.patience": Key(
        int, None, "stop without a better one in", "evaluations", ge=1, null=True
    ),
    "precision": Key(str, "fp32", "of matrix products; weights stay fp32", choices=PRECISIONS),
    "compile": Key(bool, False, "torch.compile: slower start, faster steps"),
    "channels_last": Key(bool, False, "channels_last memory format, faster convolutions"),
    "log.smooth": Key(float, 0.98, "decay of the smoothed training loss; 0: none", ge=0, lt=1),
    "log.every": Key(str, 50, "how often training loss and metrics are logged", **CADENCE),
    # changes which weights are the best, so a resumed run must keep it
    "evaluate.every": Key(str, "1ep", "how often the validation split is evaluated", **CADENCE),
    "evaluate.statistics": Key(str, "ema", "batch norm: running or recomputed", choices=STATISTICS),
    "probe.every": Key(str, 100, "how often probes record statistics", **CADENCE),
    "checkpoint.every": Key(str, None, "save at these steps as well", **CADENCE, null=True),
    "checkpoint.seconds": Key(
        float, 10.0, "between saves, or 50 times a save's own", "seconds", gt=0
    ),
    "data.train_size": Key(int, None, "use only so many for training", "samples", ge=1, null=True),
    "data.classes": Key(str, None, "keep only these classes", **NAMED),
    "data.features": Key(str, None, "keep only these columns of a table", **NAMED),
    "data.label_noise": Key(float, 0.0, "fraction of training labels made wrong", ge=0, le=1),
    "data.imbalance": Key(float, 1.0, "size of the rarest class / commonest class", gt=0, le=1),
    "data.order": Key(str, "shuffled", "sorted: in label order", choices=("shuffled", "sorted")),
    "data.val_fraction": Key(float, None, "validation share of train + val", gt=0, lt=1, null=True),
    "data.fold": Key(int, None, "validate on this fold, 0 to data.folds - 1", ge=0, null=True),
    "data.folds": Key(int, 5, "number of cross-validation folds", ge=2),
    "preprocess.test": Key(str, None, "another word for validation and test", null=True),
    "repeats": Key(int, 1, "runs of each setting; seeds from `seed` up", "runs", ge=1, le=1000),
    "sweep.trials": Key(int, 16, "number of settings a search tries", ge=1, le=1_000_000),
    "sweep.seed": Key(int, 0, "random seed of the search", ge=0, le=SEEDS),
    "sweep.points": Key(int, None, "grid points per interval", ge=1, null=True),
    "sweep.batch": Key(int, 8, "settings run before the sampler learns from them", ge=1),
    "sweep.sampler": Key(str, "tpe", "for hydra/sweeper=optuna", form=r"[a-z]\w*", says="a name"),
    "sweep.stages": Key(int, 2, "stages of hydra/sweeper=coarse_to_fine", ge=1, le=10),
    "sweep.top": Key(int, 3, "best settings the next stage searches around", ge=1),
    "sweep.eta": Key(int, 3, "hydra/sweeper=halving keeps 1 in so many", ge=2),
    "sweep.nuisance": Key(str, [], "keys tuned separately for each setting", each=True),
    "sweep.retry": Key(bool, False, "re-run jobs that failed or diverged"),
    "sweep.timeout": Key(float, None, "kill a job that is silent for", "seconds", gt=0, null=True),
    "sweep.workers": Key(int, None, "parallel processes", ge=1, le=1024, null=True),
    "stack.size": Key(int, None, "runs trained together as one stack", "runs", ge=1, null=True),
    "preflight.on_fail": Key(str, "warn", "action on a failed check", choices=("warn", "stop")),
    "quiet": Key(bool, False, "print nothing"),
    "resume": Key(str, None, "auto, or the folder of a run to resume", null=True),
    "resume_allow": Key(str, [], "keys that may differ from the resumed run", each=True),
    "trust": Key(str, [], "your own packages that a _target_ may name", form=PACKAGE, each=True),
}
# type and range of keys in the words' files
RANGES = {
    Key(bool): "init.zero_gamma data.download optim.nesterov optim.amsgrad",
    Key(float, gt=0): """activation.alpha activation.beta activation.max_val
        activation.threshold init.tolerance init.weight.std init.weight.scale norm.eps
        augment.mixup.alpha augment.cutmix.alpha data.turns data.spread preprocess.eps
        loss.margin optim.lr optim.trust optim.adam_lr optim.eps task.low task.high""",
    Key(float, ge=0): """activation.negative_slope activation.slope init.weight.b
        augment.noise.std loss.gamma optim.weight_decay optim.eta optim.gamma
        optim.momentum_decay schedule.rate schedule.threshold data.noise""",
    Key(float, ge=0, le=1): """augment.flip.p augment.jitter.brightness augment.jitter.contrast
        schedule.final schedule.start schedule.low schedule.peak""",
    Key(float, ge=0, lt=1): """model.dropout model.drop_path loss.label_smoothing optim.momentum
        optim.alpha optim.rho schedule.warmup""",
    Key(float, gt=0, le=1): "norm.momentum schedule.factor schedule.decay preprocess.share",
    Key(float, le=0): "activation.min_val init.weight.a",
    Key(float, gt=0, le=100): "schedule.growth schedule.power",
    Key(float, ge=0, le=0.25): "activation.lower", Key(float, ge=0.25): "activation.upper",
    Key(float, gt=0, choices=("auto",)): "init.gain",
    Key(float, choices=("prior",), null=True): "init.bias",
    Key(float): "init.weight.val fault.severity",
    Key(float, ge=0, le=180): "augment.rotate.degrees",
    Key(float, ge=0, lt=1, each=True): "optim.betas",
    Key(float, gt=0, lt=1, each=True): "schedule.drops",
    Key(float, ge=0, le=1, each=True): "schedule.at",
    Key(float, ge=0, each=True): "schedule.factors",
    Key(int, ge=0, le=1024): "augment.shift.pixels augment.pad_crop.pad augment.cutout.size",
    Key(int, ge=0, le=SEEDS): "data.split_seed optim.seed",
    Key(int, ge=1, le=2**20, each=True): "model.widths model.channels",
    Key(int, ge=1, le=10000): "optim.max_iter optim.history_size",
    Key(int, ge=1, le=100): "optim.newton_schulz schedule.cycles",
    Key(int, ge=0): "schedule.patience schedule.cooldown data.memory_limit",
    Key(int, ge=2, le=1024): "activation.pieces",
    Key(int, ge=1, le=1000): "init.tries task.seeds",
    Key(int, ge=1, le=2**20): "norm.groups",
    Key(int, ge=10, le=10**7): "data.samples task.steps",
    Key(int, ge=2, le=100): "data.groups",
    Key(int, ge=1, le=2**14, null=True): "data.size",
    Key(int, ge=0, le=256): "data.workers",
    Key(float, gt=0, null=True): "data.max_value",
    Key(int, ge=1, le=1000, null=True): "model.depth",
    Key(int, ge=1, null=True): "data.val_size model.budget preprocess.components",
    Key(str, choices=("layer", "channel")): "activation.per",
    Key(str, choices=("none", "tanh")): "activation.approximate",
    Key(str, choices=("same", "zero", "gaussian")): "init.head",
    Key(str, choices=("in", "out", "mean")): "init.weight.fan",
    Key(str, choices=("fan_in", "fan_out")): "init.weight.mode",
    Key(str, choices=("linear",)): "init.weight.nonlinearity",
    Key(str, choices=("before", "after")): "norm.place",
    Key(str, choices=("up", "down"), null=True): "metric.direction",
    Key(str, null=True): "metric.unit data.root model.weights",
    Key(int, ge=0, le=12): "metric.digits",
    Key(str, choices=("edge", "zero")): "augment.shift.fill",
    Key(str, choices=("rectangle", "funnel", "inverted")): "model.shape", Key(str): "model.name",
    Key(str, choices=("strong_wolfe",), null=True): "optim.line_search_fn",
}  # fmt: skip
COMMON = {name: rule for rule, names in RANGES.items() for name in names.split()}
KEYS = OWN_KEYS | COMMON
# keys that may differ between a run and its resumption; data are compared by their own digest
MAY_DIFFER = (
    "device.", "threads.", "epochs.", "max_steps.", "log.every.", "probe.every.", "checkpoint.",
    "preflight.", "quiet.", "resume.", "resume_allow.", "trust.", "data.root.", "data.download.",
    "data.memory_limit.", "data.workers.", "pause_at.", "stack.", "sweep.", "repeats.",
    "task.", "hydra.",
)  # fmt: skip


def defaults() -> dict[str, Any]:
    """trainlab's own keys with their defaults as nested dicts, for Hydra's ConfigStore."""
    config: dict[str, Any] = {}
    for name, rule in OWN_KEYS.items():
        section, _, last = name.rpartition(".")
        (config.setdefault(section, {}) if section else config)[last] = rule.default
    return config


def values(node: Any) -> Any:
    """A config node as plain dicts and lists; any other value unchanged."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def split_own_keys(cfg: Any, group: str) -> tuple[Any, dict[str, Any]]:
    """A group's node without trainlab's own keys, and those keys: (node, {key: value})."""
    from omegaconf import OmegaConf

    node = values(cfg[group])
    own = {key: node.pop(key) for key in list(node) if f"{group}.{key}" in OWN_KEYS}
    return OmegaConf.create({group: node})[group], own


def declared(name: str) -> Key | None:
    """The declaration of a dotted key; None where only the value in the YAML file gives its
    type."""
    last = name.rpartition(".")[2]
    if last in ("_target_", "_partial_"):
        return Key(bool) if last == "_partial_" else Key(str, says="a dotted path")
    if name.startswith("metric."):  # metric.accuracy.digits: the same for every word
        name = f"metric.{last}"
    return KEYS.get(name)


def check(name: str, value: Any, usual: Any = None) -> None:
    """Raise ConfigError unless `value` is of the type and in the range of the key `name`.

    usual: its default, whose type counts where none is declared.
    """
    rule = declared(name)
    if rule is None:
        sample = usual[0] if isinstance(usual, list) and usual else usual
        if not isinstance(sample, tuple(NAMES)):  # null or {}: any value
            return
        rule = Key(type(sample), each=isinstance(usual, list))
    usual = OWN_KEYS[name].default if usual is None and name in OWN_KEYS else usual
    parts = {name: value}
    if rule.each and isinstance(value, list):
        rule = dataclasses.replace(rule, each=False)
        parts = {f"{name}[{i}]": item for i, item in enumerate(value)}
    for part, item in parts.items():
        if not rule.accepts(item):
            raise _suggest().not_allowed(part, item, rule.allowed(), name, rule, usual)
    if name == "optim.betas" and len(value) != 2:
        raise _suggest().not_allowed(name, value, "two numbers", name, None, usual)


def _suggest() -> Any:
    from trainlab.config import allowed_values  # needed only for an error

    return allowed_values


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optim": {"lr": 0.1}} -> {"optim.lr": 0.1}. Lists and empty dicts are leaves."""
    leaves = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            leaves |= flat(value, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = value
    return leaves


def may_differ(name: str) -> bool:
    """Whether a resumed run may have another value of this key."""
    return f"{name}.".startswith(MAY_DIFFER)


def digest(config: dict[str, Any], without: Callable[[str], bool] = may_differ) -> str:
    """SHA-256 of the resolved config without some keys; lr 1 and 1.0 give the same digest."""

    def number(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [number(name, v) for v in value]
        rule = declared(name)
        return float(value) if rule and rule.kind is float and isinstance(value, int) else value

    compared = {name: number(name, v) for name, v in flat(config).items() if not without(name)}
    return hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()
