"""What trainlab itself owns of the config: type, unit, range and help beside each key.

This one declaration feeds the check of the command line, the error text, `--help` and the tests.
The ranges of the common group keys (optim.lr, model.dropout, ...) stand here too; the type of any
other group key is that of its literal in the YAML.
"""

import dataclasses
import difflib
import hashlib
import json
import math
import operator
import re
from typing import Any

from trainlab.errors import ConfigError

DEVICE = {"form": r"auto|cpu|cuda(:\d+)?", "says": "auto, cpu, cuda or cuda:N"}
CADENCE = {
    "form": r"[1-9]\d{0,11}(ep)?",
    "says": "steps (a whole number >= 1) or epochs (1ep, 2ep, ...)",
}
NAMED = {"form": ".+", "says": "a name or a number", "each": True, "null": True}
PACKAGE = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"
SEEDS, MONITORS = 2**32 - 1, ("val/loss", "val/accuracy")
NAMES = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}
SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


@dataclasses.dataclass(frozen=True)
class Key:
    """What one key may hold. `each`: a list of such values; `null`: null is allowed too."""

    kind: type
    default: Any = None
    help: str = ""
    unit: str = ""
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    choices: tuple[str, ...] = ()
    form: str = ""  # a regular expression, with `says` in its place in messages
    says: str = ""
    each: bool = False
    null: bool = False

    def bounds(self) -> dict[str, float]:
        """{"gt": 0}: those of ge, gt, le and lt that are set."""
        return {name: getattr(self, name) for name in SIGNS if getattr(self, name) is not None}

    def allowed(self) -> str:
        """`a finite number > 0`"""
        text = self.says or NAMES[self.kind]
        if self.choices:
            text = "one of " + ", ".join(self.choices)
        bounds = [f"{SIGNS[name]} {bound}" for name, bound in self.bounds().items()]
        text = " ".join([text, " and ".join(bounds)]).strip()
        if self.each:
            text = f"a list, each {text}"
        return f"null or {text}" if self.null else text

    def accepts(self, value: Any) -> bool:
        """Whether one value is allowed; the members of a list are asked one by one."""
        if value is None or self.each:
            return value is None and self.null
        if self.form and type(value) is int:
            value = str(value)
        if type(value) not in ((int, float) if self.kind is float else (self.kind,)):
            return False
        if self.kind is str:
            fits = not self.form or re.fullmatch(self.form, value)
            return bool(value and fits and (not self.choices or value in self.choices))
        inside = (getattr(operator, name)(value, bound) for name, bound in self.bounds().items())
        return abs(value) < math.inf and all(inside)


SPINE = {
    "seed": Key(int, 0, "of weights, order and dropout", ge=0, le=SEEDS),
    "device": Key(str, "auto", "GPU if there is one", **DEVICE),
    "threads": Key(int, 1, "CPU threads; other counts, other bits", ge=1, le=1024),
    "epochs": Key(int, 30, "length of the training", "epochs", ge=1, le=1_000_000),
    "max_steps": Key(int, None, "ends it earlier", "steps", ge=1, null=True),
    "batch_size": Key(int, 32, "samples a step", "samples", ge=1, le=2**31),
    "monitor": Key(str, "val/loss", "what the best weights are best in", choices=MONITORS),
    "penalty.l2": Key(
        float, 0.0, "adds l2/2 * |parameters|^2 to the loss; equals SGD's weight_decay", ge=0
    ),
    "clip.norm": Key(
        float, None, "largest joint L2 norm of the gradients; null: any", gt=0, null=True
    ),
    "log.every": Key(str, 50, "how often training loss and accuracy are written", **CADENCE),
    # it decides which weights are the best
    "evaluate.every": Key(str, "1ep", "how often the validation split is judged", **CADENCE),
    "probe.every": Key(str, 100, "how often the probes look inside", **CADENCE),
    "checkpoint.every": Key(
        str, None, "saves at fixed steps too; null: only by the clock", **CADENCE, null=True
    ),
    "checkpoint.seconds": Key(
        float, 10.0, "work that a kill may lose, or 50 times what a save takes", "seconds", gt=0
    ),
    "data.train_size": Key(int, None, "fewer training samples", "samples", ge=1, null=True),
    "data.classes": Key(str, None, "only these classes", **NAMED),
    "data.features": Key(str, None, "only these columns of a table", **NAMED),
    "data.label_noise": Key(float, 0.0, "share of training labels made wrong", ge=0, le=1),
    "data.imbalance": Key(float, 1.0, "rarest to commonest class in training", gt=0, le=1),
    "data.order": Key(str, "shuffled", "sorted: by label", choices=("shuffled", "sorted")),
    "data.val_fraction": Key(float, None, "of training and validation", gt=0, lt=1, null=True),
    "data.fold": Key(int, None, "validate on this of data.folds parts", ge=0, null=True),
    "data.folds": Key(int, 5, "of cross-validation", ge=2),
    "preprocess.test": Key(str, None, "another word for validation and test", null=True),
    "preflight.on_fail": Key(str, "warn", "what a failed check does", choices=("warn", "stop")),
    "quiet": Key(bool, False, "print nothing"),
    "resume": Key(str, None, "auto, or the folder of a run to go on with", null=True),
    "resume_allow": Key(str, [], "keys that may differ from the resumed run", each=True),
    "trust": Key(str, [], "your packages a _target_ may name", form=PACKAGE, each=True),
}
COMMON = {
    "activation.alpha": Key(float, gt=0),
    "init.bias": Key(float),
    "init.weight.std": Key(float, gt=0),
    "init.weight.gain": Key(float, gt=0),
    "init.weight.nonlinearity": Key(
        str, choices=("relu", "leaky_relu", "tanh", "sigmoid", "selu", "linear")
    ),
    "norm.momentum": Key(float, gt=0, le=1),
    "norm.eps": Key(float, gt=0),
    "norm.place": Key(str, choices=("before", "after")),
    "data.root": Key(str, null=True),
    "data.download": Key(bool),
    "data.split_seed": Key(int, ge=0, le=SEEDS),
    "data.val_size": Key(int, ge=1, null=True),
    "data.samples": Key(int, ge=10, le=10**7),
    "data.groups": Key(int, ge=2, le=100),
    "data.noise": Key(float, ge=0),
    "data.size": Key(int, ge=1, le=2**14, null=True),
    "data.memory_limit": Key(int, ge=0),
    "data.workers": Key(int, ge=0, le=256),
    "data.max_value": Key(float, gt=0, null=True),
    "preprocess.eps": Key(float, gt=0),
    "preprocess.components": Key(int, ge=1, null=True),
    "preprocess.share": Key(float, gt=0, le=1),
    "model.widths": Key(int, ge=1, le=2**20, each=True),
    "model.channels": Key(int, ge=1, le=2**20, each=True),
    "model.dropout": Key(float, ge=0, lt=1),
    "loss.label_smoothing": Key(float, ge=0, lt=1),
    "optim.lr": Key(float, gt=0),
    "optim.weight_decay": Key(float, ge=0),
    "optim.momentum": Key(float, ge=0, lt=1),
    "optim.nesterov": Key(bool),
    "optim.betas": Key(float, ge=0, lt=1, each=True),
    "optim.eps": Key(float, gt=0),
    "schedule.drops": Key(float, gt=0, lt=1, each=True),
    "schedule.factor": Key(float, gt=0, le=1),
    "schedule.final": Key(float, ge=0, le=1),
    "schedule.warmup": Key(float, ge=0, lt=1),
}
KEYS = SPINE | COMMON
# what may differ between a run and its resumption; of the data, its own digest is compared
HARMLESS = (
    "device.", "threads.", "epochs.", "max_steps.", "log.", "probe.every.", "checkpoint.",
    "preflight.", "quiet.", "resume.", "resume_allow.", "trust.", "data.root.", "data.download.",
    "data.memory_limit.", "data.workers.",
    "task.", "hydra.",
)  # fmt: skip


def defaults() -> dict[str, Any]:
    """The spine as plain dicts, for Hydra's ConfigStore."""
    config: dict[str, Any] = {}
    for name, rule in SPINE.items():
        section, _, last = name.rpartition(".")
        (config.setdefault(section, {}) if section else config)[last] = rule.default
    return config


def declared(name: str) -> Key | None:
    """The declaration of a dotted key; None where the YAML's literal is all there is."""
    last = name.rpartition(".")[2]
    if last in ("_target_", "_partial_"):
        return Key(bool) if last == "_partial_" else Key(str, says="a dotted path")
    return KEYS.get(name)


def check(name: str, value: Any, usual: Any = None) -> None:
    """Raise ConfigError unless `value` is of the type and in the range of the key `name`.

    usual: the value that the config has without it; gives the type where none is declared.
    """
    rule = declared(name)
    if rule is None:
        sample = usual[0] if isinstance(usual, list) and usual else usual
        if not isinstance(sample, tuple(NAMES)):  # null or {}: any value
            return
        rule = Key(type(sample), each=isinstance(usual, list))
    parts = {name: value}
    if rule.each and isinstance(value, list):
        rule = dataclasses.replace(rule, each=False)
        parts = {f"{name}[{i}]": item for i, item in enumerate(value)}
    for part, item in parts.items():
        if not rule.accepts(item):
            fix = _nearest(name, rule, item) or _use(name, usual)
            raise ConfigError(f"{part} = {plain(item)}: must be {rule.allowed()}; {fix}")
    if name == "optim.betas" and len(value) != 2:
        raise ConfigError(f"{name} = {plain(value)}: must be two numbers; {_use(name, usual)}")


def plain(value: Any) -> str:
    """As it is typed: true, null, [16,16]."""
    if isinstance(value, list):
        return "[" + ",".join(map(plain, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value) or "(empty)"


def _use(name: str, usual: Any) -> str:
    if usual is None and name in SPINE:
        usual = SPINE[name].default
    return f"such as {name}={plain(usual)}" if usual is not None else f"leave {name} out"


def _nearest(name: str, rule: Key, value: Any) -> str:
    """What was probably meant: 1e3: 1000, 50%: 0.5, 1e: 1e-3, gpu: cuda, 16: [16]."""
    words = {"yes": True, "on": True, "no": False, "off": False, "gpu": "cuda"}
    text = str(value).strip()
    meant = words.get(text)
    if rule.each or (isinstance(value, list) and len(value) == 1):
        return f"use {name}={plain([value] if rule.each else value[0])}" if value else ""
    if rule.kind in (int, float):
        if re.fullmatch(r"\d+e", text):
            return f"did you mean {name}={text}-3?"
        percent = re.fullmatch(r"([\d.]+) *%", text)
        try:
            meant = float(percent[1]) / 100 if percent else float(text)
        except ValueError:
            return ""
        if rule.kind is int and meant.is_integer():
            meant = int(meant)
    elif near := difflib.get_close_matches(text, rule.choices, 1, 0.5):
        meant = near[0]
    return f"use {name}={plain(meant)}" if meant is not None and rule.accepts(meant) else ""


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optim": {"lr": 0.1}} -> {"optim.lr": 0.1}. Lists and empty dicts are leaves."""
    found = {}
    for name, value in config.items():
        inner = isinstance(value, dict) and value
        found |= flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return found


def harmless(name: str) -> bool:
    """Whether a resumed run may have another value of this key without being another run."""
    return f"{name}.".startswith(HARMLESS)


def digest(config: dict[str, Any]) -> str:
    """SHA-256 of the resolved config without its harmless keys; 1 and 1.0 are the same lr."""

    def number(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [number(name, v) for v in value]
        rule = declared(name)
        return float(value) if rule and rule.kind is float and isinstance(value, int) else value

    kept = {name: number(name, v) for name, v in flat(config).items() if not harmless(name)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
