"""What users asked, from a sample of a server's logs: JSON lines of requests.

    {"messages": [...]}  {"prompt": "..."}  {"input": "..." or [...]}     bodies of OpenAI's API
    {"body": {...}}  {"request": {...}}  {"request_body": {...}}          ... inside an entry
    any of them with "category"                                           where the log knows it

Logs hold what people wrote. Only counts leave this file's reader: no text is kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eagle_hf.data.lines import read_json_lines
from eagle_hf.data.rows import SkippedLine

BODY_COLUMNS = ("body", "request", "request_body")
MESSAGE_COLUMNS = ("messages", "input")
TEXT_COLUMNS = ("prompt", "input")


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
        ValueError: the entry holds no text of a user.
    """
    if not isinstance(entry, Mapping):
        raise ValueError(f"the entry is of type {type(entry).__name__}; a mapping is needed")
    body: Any = entry
    for column in BODY_COLUMNS:
        if isinstance(entry.get(column), Mapping):
            body = entry[column]
    text = "\n".join(_user_texts(body)).strip()
    if not text:
        raise ValueError(
            f"the request has the keys {list(body)} and no text of a user; needed is one of "
            f"{MESSAGE_COLUMNS} with a user's turn, or 'prompt'"
        )
    category = entry.get("category") or body.get("category")
    return LoggedRequest(text, category if isinstance(category, str) else None)


def _user_texts(body: Mapping[str, Any]) -> list[str]:
    """The texts of the user's turns in the body of a request."""
    for column in MESSAGE_COLUMNS:
        if isinstance(body.get(column), Sequence) and not isinstance(body[column], str):
            return _texts_of_messages(body[column])
    for column in TEXT_COLUMNS:
        if isinstance(body.get(column), str):
            return [body[column]]
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
