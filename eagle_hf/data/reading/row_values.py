"""What single values of a row must be: text, an id, a list of messages."""

import re
from collections.abc import Mapping
from typing import Any

# Halves of a surrogate pair: JSON can spell them ("\ud800"), UTF-8 cannot encode them.
SURROGATE = re.compile("[\ud800-\udfff]")

Row = Mapping[str, Any]


def check_text(value: object, what: str) -> str:
    """Refuse what is not text that a tokenizer can encode.

    Args:
        value: what stands in a row.
        what: its name in an error.

    Returns:
        The value itself.

    Raises:
        ValueError: it is no text, empty, or holds half a surrogate pair.
    """
    if not isinstance(value, str):
        raise ValueError(f"{what} is of type {type(value).__name__}; text is needed")
    if not value.strip():
        raise ValueError(f"{what} is empty")
    check_encodable(value, what)
    return value


def check_encodable(text: str, what: str) -> None:
    """Refuse text that UTF-8 cannot encode.

    Args:
        text: any.
        what: its name in an error.

    Raises:
        ValueError: it holds half a surrogate pair.
    """
    if not is_encodable(text):
        raise ValueError(f"{what} holds half a surrogate pair, which no tokenizer can read")


def is_encodable(text: str) -> bool:
    """Whether UTF-8 can encode a text; half a surrogate pair it cannot.

    Args:
        text: any.

    Returns:
        The answer.
    """
    return SURROGATE.search(text) is None


def read_id(row: Row, default: str) -> str:
    """The id of a row.

    Args:
        row: with an optional `id`.
        default: for a row without one.

    Returns:
        The id.

    Raises:
        ValueError: the id is neither text nor a whole number.
    """
    value = row.get("id")
    if value is None or value == "":
        return default
    # True and False are ints in Python.
    is_name = isinstance(value, (str, int)) and not isinstance(value, bool)
    if not is_name:
        raise ValueError(
            f"'id' is of type {type(value).__name__}; text or a whole number is needed"
        )
    return check_text(str(value), "'id'")


def read_word(row: Row, key: str, default: str) -> str:
    """A word in a column that may be empty.

    Args:
        row: of a file or dataset.
        key: the column.
        default: where it is empty.

    Returns:
        The word.

    Raises:
        ValueError: something else than text stands there.
    """
    value = row.get(key)
    if value is None or value == "":
        return default
    return check_text(value, f"{key!r}")


def check_message_list(value: object) -> None:
    """Refuse anything that is not a list of mappings.

    Args:
        value: the messages of a row.

    Raises:
        ValueError: names the type that arrived.
    """
    if not isinstance(value, list):
        raise ValueError(f"the messages are of type {type(value).__name__}; a list is needed")
    for message in value:
        if not isinstance(message, Mapping):
            raise ValueError(f"a message is of type {type(message).__name__}; a mapping is needed")


def read_content(message: Row) -> Any:
    """What a role/content or from/value message says.

    Args:
        message: as found in a file or dataset.

    Returns:
        The content; anything may stand there.
    """
    # Rows of a table have all columns of all rows: one that is empty here may be filled there.
    content = message.get("content")
    return message.get("value") if content is None else content


def is_text_part(part: object) -> bool:
    """Whether a part of a content is text.

    Args:
        part: of a content that is a list.

    Returns:
        True where it is {"type": "text", "text": ...}.
    """
    is_text = isinstance(part, Mapping) and part.get("type") == "text"
    return is_text and isinstance(part.get("text"), str)
