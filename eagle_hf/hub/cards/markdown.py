"""Text of whatever origin inside a card: it can neither end the metadata nor become HTML."""

import html
import re
from typing import Any

# Characters that begin code, emphasis, links or a cell of a table.
MARKUP = re.compile(r"([\\`*\[\]|])")
# A `<` that begins a tag, a comment or a declaration.
TAG = re.compile(r"<(?=[A-Za-z/!?])")


def escape(value: Any) -> Any:
    """Text, or a structure of it, as one line that Markdown shows as it is."""
    if isinstance(value, dict):
        return {escape(key): escape(part) for key, part in value.items()}
    if isinstance(value, list):
        return [escape(part) for part in value]
    if isinstance(value, str):
        return escape_text(value)
    return value


def escape_text(text: str) -> str:
    """Text as one line that Markdown shows as it is."""
    one_line = " ".join(text.split())  # a line break could end the metadata
    return MARKUP.sub(r"\\\1", html.escape(one_line, quote=False))


def show_tags(markdown: str) -> str:
    """Markdown whose tags are shown, not obeyed; inside of code too, where they then look odd."""
    return TAG.sub("&lt;", markdown)


def check_hub_id(name: str) -> None:
    """Raise a ValueError unless `name` is a hub id; it stands in the card's code."""
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name, re.ASCII):
        raise ValueError(f"{name!r} is no hub id; give one as user/name (letters, digits, - _ .)")
