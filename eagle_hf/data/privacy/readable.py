"""Which rows a privacy filter can read: without roles nobody knows which text is an answer."""

from collections.abc import Iterator, Mapping
from typing import Any

from eagle_hf.data.reading.roles import MAY_FOLLOW, read_role

NO_TURNS = "no turns"
TURNS_NO_TEXT = "turns that are no text"
NO_MESSAGES = "no messages"
NO_ROLE = "a message whose role is none of " + ", ".join(MAY_FOLLOW)
CONTENT_NO_TEXT = "content that is neither text nor a list of parts"
TOO_DEEP = "values nested too deeply"
TOO_LONG = "more text than max_characters"
NO_TOKEN_IDS = "served_turns without lists of token ids"
UNKNOWN_TOKEN_IDS = "served_turns of another tokenizer"
UNREADABLE = (NO_TURNS, TURNS_NO_TEXT, NO_MESSAGES, NO_ROLE, CONTENT_NO_TEXT)


class UnreadableRow(ValueError):
    """A row that is left out because it cannot be read.

    Its text is one of the reasons above: nothing of the row itself, which may be personal data.
    """


def check_prompt_row(row: object) -> None:
    """Refuse what is no prompt.

    Args:
        row: anything.

    Raises:
        UnreadableRow: it has no user turns of text.
    """
    turns = row.get("turns") if isinstance(row, Mapping) else None
    if not isinstance(turns, list | tuple) or not turns:
        raise UnreadableRow(NO_TURNS)
    if not all(isinstance(turn, str) for turn in turns):
        raise UnreadableRow(TURNS_NO_TEXT)


def check_conversation_row(row: object) -> None:
    """Refuse what is no conversation.

    Args:
        row: anything.

    Raises:
        UnreadableRow: it has no messages of a known role and readable content.
    """
    messages = row.get("messages") if isinstance(row, Mapping) else None
    if not isinstance(messages, list | tuple) or not messages:
        raise UnreadableRow(NO_MESSAGES)
    for message in messages:
        _check_message(message)


def answer_ids(row: Mapping[str, Any]) -> Iterator[list[int]]:
    """The token ids of a conversation's answers.

    Args:
        row: a conversation.

    Yields:
        The `response_ids` of every served turn that has some.

    Raises:
        UnreadableRow: `served_turns` holds something else.
    """
    turns = row.get("served_turns") or ()
    if not isinstance(turns, list | tuple):
        raise UnreadableRow(NO_TOKEN_IDS)
    for turn in turns:
        ids = turn.get("response_ids") if isinstance(turn, Mapping) else "none"
        if ids is None:
            continue
        if not isinstance(ids, list | tuple) or not all(map(_is_token_id, ids)):
            raise UnreadableRow(NO_TOKEN_IDS)
        yield list(ids)


def _is_token_id(value: object) -> bool:
    """Whether a tokenizer can look it up."""
    return isinstance(value, int) and value >= 0


def _check_message(message: Any) -> None:
    """Refuse a message of which nobody can tell who says what."""
    role = read_role(message) if isinstance(message, Mapping) else None
    if not isinstance(role, str) or role not in MAY_FOLLOW:
        raise UnreadableRow(NO_ROLE)
    content = message.get("content")
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list | tuple):
        raise UnreadableRow(CONTENT_NO_TEXT)
    if not all(isinstance(part, str | Mapping) for part in content):
        raise UnreadableRow(CONTENT_NO_TEXT)
