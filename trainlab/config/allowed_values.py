"""Suggestions for a value that is not allowed. Imported only when there is one."""

import difflib
import re
from typing import Any

from trainlab.errors import ConfigError, as_typed


def not_allowed(
    part: str, value: Any, allowed: str, name: str, rule: Any, usual: Any
) -> ConfigError:
    """The error for a value that is not allowed, with the value to type instead."""
    fix = (rule and nearest(name, rule, value)) or typical_value(name, usual)
    return ConfigError(f"{part} = {as_typed(value)}: must be {allowed}; {fix}")


def typical_value(name: str, usual: Any) -> str:
    return f"such as {name}={as_typed(usual)}" if usual is not None else f"leave {name} out"


def nearest(name: str, rule: Any, value: Any) -> str:
    """The value that was probably meant: 1e3: 1000, 50%: 0.5, 1e: 1e-3, gpu: cuda, 16: [16]."""
    words = {"yes": True, "on": True, "no": False, "off": False, "gpu": "cuda"}
    text = str(value).strip()
    meant = words.get(text)
    if rule.each or (isinstance(value, list) and len(value) == 1):
        return f"use {name}={as_typed([value] if rule.each else value[0])}" if value else ""
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
    elif rule.form and re.fullmatch(
        r"\d+\.0*", text
    ):  # 8.0 where a whole number or text is allowed
        meant = int(float(text))
    elif near := difflib.get_close_matches(text, rule.choices, 1, 0.5):
        meant = near[0]
    return f"use {name}={as_typed(meant)}" if meant is not None and rule.accepts(meant) else ""
