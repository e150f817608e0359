"""Tables, lists and paragraphs of a page."""

from collections.abc import Sequence
from textwrap import fill
from typing import Any

Content = dict[str, Any]  # of a kept file


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; a bar inside of a cell cannot end it."""
    lines = [_line(columns), "|" + "---|" * len(columns)]
    for row in rows:
        lines.append(_line([cell.replace("|", "/") for cell in row]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    """One line of a table."""
    return "| " + " | ".join(cells) + " |"


def machine_list(machine: dict[str, Any]) -> str:
    """A machine and its versions as a list; what is not known is left out."""
    lines = []
    for name, value in machine.items():
        if value is not None:
            lines.append(f"- {name.replace('_', ' ')}: {value}")
    return "\n".join(lines)


def wrapped(text: str, indent: str = "") -> str:
    """A paragraph in lines of prose."""
    return fill(
        text, width=100, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )
