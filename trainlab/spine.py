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
import re
from dataclasses import dataclass
from types import NoneType
from typing import Any, get_args

from trainlab.errors import ConfigError

CADENCE, DEVICE = r"[1-9]\d{0,11}(ep)?", r"auto|cpu|cuda(:\d+)?"
PACKAGE = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"
SEEDS, MONITORS = 2**32 - 1, ("val/loss", "val/accuracy")
NAMES = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class Key:
    """What one key may hold. `each`: a list of such values; `null`: null is allowed too."""

    kind: type
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
    harmless: bool = False  # may differ between a run and its resumption

    def allowed(self) -> str:
        """`a finite number > 0`"""
        text = self.says or NAMES[self.kind]
        if self.choices:
            text = "one of " + ", ".join(self.choices)
        signs = {">=": self.ge, ">": self.gt, "<=": self.le, "<": self.lt}
        bounds = [f"{sign} {bound}" for sign, bound in signs.items() if bound is not None]
        text = " ".join([text, " and ".join(bounds)]).strip()
        if self.each:
            text = f"a list, each {text}"
        return f"null or {text}" if self.null else text

    def accepts(self, value: Any) -> bool:
        if self.form and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, (int, float) if self.kind is float else self.kind):
            return False
        if isinstance(value, bool) or self.kind is bool:
            return self.kind is bool
        if isinstance(value, str):
            fits = not self.form or re.fullmatch(self.form, value)
            return bool(value and fits and (not self.choices or value in self.choices))
        return (
            abs(value) < math.inf
            and (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )


def key(default: Any, help: str, unit: str = "", **limits: Any) -> Any:
    """A field of the spine; its type is the annotation's."""
    return dataclasses.field(
        default_factory=lambda: default, metadata={"help": help, "unit": unit, **limits}
    )


def cadence(default: int | str | None, help: str, harmless: bool = True) -> Any:
    says = "steps (a whole number >= 1) or epochs (1ep, 2ep, ...)"
    return key(default, help, form=CADENCE, says=says, harmless=harmless)


@dataclass
class Penalty:
    l2: float = key(0.0, "adds l2/2 * |parameters|^2 to the loss; equals SGD's weight_decay", ge=0)


@dataclass
class Clip:
    norm: float | None = key(None, "largest joint L2 norm of the gradients; null: any", gt=0)


@dataclass
class Log:
    every: str = cadence(50, "how often training loss and accuracy are written")


@dataclass
class Evaluate:  # it decides which weights are the best
    every: str = cadence("1ep", "how often the validation split is judged", harmless=False)


@dataclass
class Probe:
    every: str = cadence(50, "how often the probes look inside")


@dataclass
class Checkpoint:
    every: str | None = cadence(None, "saves at fixed steps too; null: only by the clock")
    seconds: float = key(
        10.0, "work that a kill may lose, or 50 times what a save takes", "seconds", gt=0,
        harmless=True,
    )  # fmt: skip


@dataclass
class Preflight:
    on_fail: str = key("warn", "what a failed check does", choices=("warn", "stop"), harmless=True)


@dataclass
class Spine:
    seed: int = key(0, "of weights, order and dropout", ge=0, le=SEEDS)
    device: str = key(
        "auto", "GPU if there is one", form=DEVICE, says="auto, cpu, cuda or cuda:N", harmless=True
    )  # fmt: skip
    threads: int = key(1, "CPU threads; other counts, other bits", ge=1, le=1024, harmless=True)
    epochs: int = key(30, "length of the training", "epochs", ge=1, le=1_000_000, harmless=True)
    max_steps: int | None = key(None, "ends it earlier", "steps", ge=1, harmless=True)
    batch_size: int = key(32, "samples a step", "samples", ge=1, le=2**31)
    monitor: str = key("val/loss", "what the best weights are best in", choices=MONITORS)
    penalty: Penalty = dataclasses.field(default_factory=Penalty)
    clip: Clip = dataclasses.field(default_factory=Clip)
    log: Log = dataclasses.field(default_factory=Log)
    evaluate: Evaluate = dataclasses.field(default_factory=Evaluate)
    probe: Probe = dataclasses.field(default_factory=Probe)
    checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)
    preflight: Preflight = dataclasses.field(default_factory=Preflight)
    quiet: bool = key(False, "print nothing", harmless=True)
    resume: str | None = key(None, "auto, or the folder of a run to go on with", harmless=True)
    resume_allow: list[str] = key([], "keys that may differ from the resumed run", harmless=True)
    trust: list[str] = key([], "your packages a _target_ may name", form=PACKAGE, harmless=True)


def _keys(node: type, prefix: str = "") -> dict[str, Key]:
    found = {}
    for field in dataclasses.fields(node):
        if dataclasses.is_dataclass(field.type):
            found |= _keys(field.type, f"{prefix}{field.name}.")
        else:
            kinds = get_args(field.type) or (field.type,)
            found[prefix + field.name] = Key(
                kinds[0], **field.metadata, null=NoneType in kinds, each=field.type == list[str]
            )
    return found


SPINE = _keys(Spine)
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
    "data.root": Key(str, null=True, harmless=True),  # the data's own digest is compared instead
    "data.download": Key(bool, harmless=True),
    "data.split_seed": Key(int, ge=0, le=SEEDS),
    "data.val_size": Key(int, "samples", ge=1),
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
HARMLESS = ("preflight.", "task.", "hydra.")


def defaults() -> dict[str, Any]:
    """The spine as plain dicts, for Hydra's ConfigStore."""
    return dataclasses.asdict(Spine())


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
    if value is None and rule.null:
        return
    values = {f"{name}[{i}]": v for i, v in enumerate(value)} if isinstance(value, list) else {}
    if rule.each != isinstance(value, list):
        fix = (
            f"use {name}=[{plain(value)}]" if rule.each and value is not None else _use(name, usual)
        )
        if isinstance(value, list) and len(value) == 1:
            fix = f"use {name}={plain(value[0])}"
        raise ConfigError(f"{name} = {plain(value)}: must be {rule.allowed()}; {fix}")
    single = dataclasses.replace(rule, each=False)
    for part, item in (values or {} if rule.each else {name: value}).items():
        if not single.accepts(item):
            fix = _nearest(name, single, item) or _use(name, usual)
            raise ConfigError(f"{part} = {plain(item)}: must be {single.allowed()}; {fix}")
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
        usual = flat(defaults())[name]
    return f"such as {name}={plain(usual)}" if usual is not None else f"leave {name} out"


def _nearest(name: str, rule: Key, value: Any) -> str:
    """What was probably meant: 1e3 for 1000, 50% for 0.5, 1e for 1e-3, gpu for cuda."""
    words = {"yes": True, "on": True, "no": False, "off": False, "gpu": "cuda"}
    meant: Any = words.get(str(value))
    text = str(value).strip()
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
    elif rule.choices and meant is None:
        meant = next(iter(difflib.get_close_matches(text, rule.choices, 1, 0.5)), None)
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
    rule = declared(name)
    return bool(rule and rule.harmless) or name.startswith(HARMLESS)


def digest(config: dict[str, Any]) -> str:
    """SHA-256 of the resolved config without its harmless keys; 1 and 1.0 are the same lr."""

    def number(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [number(name, v) for v in value]
        rule = declared(name)
        return float(value) if rule and rule.kind is float and isinstance(value, int) else value

    kept = {name: number(name, v) for name, v in flat(config).items() if not harmless(name)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
