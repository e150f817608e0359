"""What users asked, from a sample of a server's logs: JSON lines of requests.

    {"messages": [...]}  {"prompt": "..."}  {"input": "..." or [...]}     bodies of OpenAI's API
    {"text": "...", "sampling_params": {...}}                             of SGLang's
    {"time": "...", "request": {"body": {...}}}                           ... inside an entry
    {"method": "POST", "request_body": "{...}"}                           ... or as JSON text
    any of them with "category"                                           where the log knows it

Logs hold what people wrote. Only counts leave this file's reader: no text is kept.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eagle_hf.data.reading.lines import read_json_lines
from eagle_hf.data.reading.row_values import check_encodable
from eagle_hf.data.rows import SkippedLine

# What an entry may hold the body of a request under, as a mapping or as JSON text.
WRAPPERS = (
    *("body", "request", "request_body", "requestBody", "http_request", "httpRequest"),
    *("json", "payload", "data", "params", "kwargs", "input", "log", "message", "msg"),
)
DEEPEST = 4  # wrappers inside each other
MESSAGE_COLUMNS = ("messages", "input")
TEXT_COLUMNS = ("prompt", "input", "text")


class LoggedRequest(NamedTuple):
    """One request of a log.

    Attributes:
        text: of the user's turns.
        category: where the log has one.
    """

    text: str
    category: str | None


def read_requests(path: Path, skipped: list[SkippedLine]) -> Iterator[LoggedRequest]:
    """Read the requests of a log, one by one.

    Args:
        path: of a JSON-lines file.
        skipped: collects the lines that hold no request.

    Yields:
        The requests in order.
    """
    for number, value in read_json_lines(path):
        try:
            if isinstance(value, ValueError):
                raise value
            yield request_from_entry(value)
        except ValueError as error:
            skipped.append(SkippedLine(number, str(error)))


def request_from_entry(entry: object) -> LoggedRequest:
    """Read the request in one entry of a log.

    Args:
        entry: a mapping, see the top of this file.

    Returns:
        The request.

    Raises:
        ValueError: the entry holds no text of a user, or text that UTF-8 cannot encode.
    """
    if not isinstance(entry, Mapping):
        raise ValueError(f"the entry is of type {type(entry).__name__}; a mapping is needed")
    found = _find_texts(entry, DEEPEST)
    text = "\n".join(found).strip()
    if not text:
        raise ValueError(
            f"the entry has the keys {list(entry)} and no text of a user; needed is one of "
            f"{MESSAGE_COLUMNS} with a user's turn, or one of {TEXT_COLUMNS}, also inside one of "
            f"{WRAPPERS}"
        )
    check_encodable(text, "the text of the user")
    category = _find_category(entry, DEEPEST)
    return LoggedRequest(text, category)


def _find_texts(entry: Mapping[str, Any], depth: int) -> list[str]:
    """The texts of the user's turns in an entry, or in what it wraps."""
    texts = _user_texts(entry)
    if texts or depth == 0:
        return texts
    for inner in _wrapped(entry):
        texts = _find_texts(inner, depth - 1)
        if texts:
            return texts
    return []


def _find_category(entry: Mapping[str, Any], depth: int) -> str | None:
    """The category of an entry, or of what it wraps."""
    category = entry.get("category")
    if isinstance(category, str) and category:
        return category
    if depth == 0:
        return None
    for inner in _wrapped(entry):
        found = _find_category(inner, depth - 1)
        if found is not None:
            return found
    return None


def _wrapped(entry: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The mappings that an entry holds, as they are or as JSON text."""
    for column in WRAPPERS:
        value = entry.get(column)
        if isinstance(value, str) and value.lstrip().startswith("{"):
            value = _json_or_none(value)
        if isinstance(value, Mapping):
            yield value


def _json_or_none(text: str) -> Any:
    """What JSON text holds; None where it is none, such as a body that a log has cut."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _user_texts(body: Mapping[str, Any]) -> list[str]:
    """The texts of the user's turns in the body of a request."""
    for column in MESSAGE_COLUMNS:
        if isinstance(body.get(column), list):
            texts = _texts_of_messages(body[column])
            if texts:
                return texts
    for column in TEXT_COLUMNS:
        value = body.get(column)
        # Text that is JSON is a body inside a body.
        if isinstance(value, str) and not isinstance(_json_or_none(value), Mapping):
            return [value]
        is_batch = isinstance(value, list) and all(isinstance(one, str) for one in value)
        if is_batch and value:
            return value
    return []


def _texts_of_messages(messages: Sequence[Any]) -> list[str]:
    """The texts of the user's turns among messages."""
    texts = []
    for message in messages:
        if isinstance(message, Mapping) and message.get("role") == "user":
            texts += _texts_of_content(message.get("content"))
    return texts


def _texts_of_content(content: object) -> list[str]:
    """The texts in the content of a message: itself, or those of its parts."""
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        return []
    texts = []
    for part in content:
        if isinstance(part, Mapping) and isinstance(part.get("text"), str):
            texts.append(part["text"])
    return texts
