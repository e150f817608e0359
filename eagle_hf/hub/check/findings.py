"""What a check finds: what an engine will do with a saved head, and what to do about that."""

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from eagle_hf.hub.engines import Engine

LEVELS = ("error", "warning", "note")  # from the gravest on
# The commands that remedies name.
FIX = "eagle-hf check HEAD --fix OUT"
FIX_WITH_TARGET = "eagle-hf check HEAD --target TARGET --fix OUT"


@dataclass(frozen=True)
class Finding:
    """One key or tensor, and what engines do with it.

    Args:
        level: "error" for what an engine refuses or gets wrong, "warning" for what makes it slow
            or depends on how it is launched or was trained, "note" for what is worth knowing.
        key: The key of config.json, or the tensor's name in the file.
        engines: Names of the engines concerned.
        happens: One sentence on what they do with it.
        remedy: One sentence on what to do.
        source: Where that is known from, besides the versions in engines.py.
        limit: Whether it is an engine's own limit, which no folder can change.
    """

    level: str
    key: str
    engines: tuple[str, ...]
    happens: str
    remedy: str
    source: str = ""
    limit: bool = False


Findings = Iterator[Finding]  # what a rule returns


def error(
    key: str,
    engines: Iterable[Engine],
    happens: str,
    remedy: str,
    source: str = "",
    limit: bool = False,
) -> Finding:
    """A finding that an engine refuses, or gets wrong; arguments as of `Finding`."""
    return Finding("error", key, engine_names(engines), happens, remedy, source, limit)


def warning(
    key: str, engines: Iterable[Engine], happens: str, remedy: str, source: str = ""
) -> Finding:
    """A finding that makes a head slow, or depends on what a folder does not show."""
    return Finding("warning", key, engine_names(engines), happens, remedy, source)


def note(
    key: str, engines: Iterable[Engine], happens: str, remedy: str, source: str = ""
) -> Finding:
    """A finding that is worth knowing."""
    return Finding("note", key, engine_names(engines), happens, remedy, source)


def engine_names(engines: Iterable[Engine]) -> tuple[str, ...]:
    """The names of these engines, as findings hold them."""
    return tuple(engine.name for engine in engines)


def shown(value: Any, length: int = 60) -> str:
    """A value from a folder inside a sentence, shortened."""
    try:
        return textwrap.shorten(repr(value), length, placeholder="...")
    except ValueError:  # an integer of more digits than Python prints
        return f"a {type(value).__name__} too long to print"
