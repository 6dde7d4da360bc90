"""From what was typed to one checked config; many runs; a resumed run; and the commands.

A command is a file of this folder that says so in its first line, "`trainlab NAME ...`: what it
does", and has `main(arguments)`, which returns the exit code. That line is what --help shows.
"""

import difflib
import importlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from trainlab.errors import ConfigError


def commands() -> dict[str, tuple[str, str]]:
    """Name -> (how it is typed, what it does), of every command. Imports none of them."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        with path.open() as file:
            says = re.match(rf'"""`(trainlab {path.stem}\b.*?)`: (.*)', file.readline())
        if says:
            found[path.stem] = says[1], says[2].rstrip(".")
    return found


def command(word: str, others: Iterable[str]) -> Callable[[list[str]], int] | None:
    """What a first argument without `=` names, or None. Raises ConfigError for a mistyped one;
    `others` are words that may have been meant as well."""
    known = commands()
    if word in known:
        return importlib.import_module(f"trainlab.cli.{word}").main
    near = difflib.get_close_matches(word.lower(), [*known, *others], 1)
    if near and near[0] in known:
        raise ConfigError(f"{word}: no such command; did you mean trainlab {near[0]}?")
    return None
