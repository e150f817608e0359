"""The prompt in one row of a file or dataset, whichever of the common columns holds it.

    turns                  ["first question", "second question"]
    messages               [{"role": "user", "content": "..."}, ...]
    conversations          [{"from": "human", "value": "..."}, ...] (ShareGPT)
    prompt                 "question", or messages as above (TRL)
    instruction, input     "task" and "material" (Alpaca)

Every refusal is a ValueError whose text says what the row holds and what is needed.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from eagle_hf.data.rows import Prompt

COLUMNS = ("turns", "messages", "conversations", "prompt", "instruction")  # the first one counts

# Other datasets' names for a role.
ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "model": "assistant",
}

# Halves of a surrogate pair: JSON can spell them ("\ud800"), UTF-8 cannot encode them.
FIRST_SURROGATE = "\ud800"
LAST_SURROGATE = "\udfff"

Row = Mapping[str, Any]
TurnsAndSystem = tuple[list, Any]  # not checked yet: a turn may be anything


def parse_line(line: bytes) -> object:
    """The JSON value of a line of a file; ValueError where it is none."""
    try:
        # Some editors begin a file with a byte-order mark.
        text = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start}") from error
    if not text:
        raise ValueError("empty line")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    # Numbers of too many digits, and lists nested too deep.
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not readable as JSON: {error}") from error


def prompt_from_row(row: object, *, default_id: str, source: str) -> Prompt:
    """Read the prompt that a row holds.

    Args:
        row: a mapping with one of `COLUMNS`, and optionally `id`, `system`, `category`, `source`.
        default_id: for a row without an id.
        source: for a row without a source.

    Returns:
        The prompt.

    Raises:
        ValueError: the row holds no prompt; the text says why.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"the row is of type {type(row).__name__}; a mapping is needed")
    column = _find_column(row)
    turns, system = _READERS[column](row[column], row)
    # A system message among the messages counts before the column of this name.
    if system is None:
        system = row.get("system")
    prompt: Prompt = {
        "id": _read_id(row, default_id),
        "turns": _check_turns(turns, column),
        "category": _read_word(row, "category", "other"),
        "source": _read_word(row, "source", source),
    }
    if not prompt["turns"]:
        raise ValueError(f"{column!r} has no user turn")
    if system:
        prompt["system"] = _check_text(system, "the system message")
    return prompt


def _find_column(row: Row) -> str:
    """The first of `COLUMNS` that is filled."""
    for name in COLUMNS:
        if row.get(name) is not None:
            return name
    if row.get("text") is not None:
        found = "only plain text, which has no user turn"
    else:
        found = f"the columns {list(row)}"
    raise ValueError(f"the row has {found}; one of {COLUMNS} is needed")


def _read_turns(value: Any, row: Row) -> TurnsAndSystem:
    """A list of user turns, as this project writes it."""
    if not isinstance(value, list):
        raise ValueError(f"'turns' is of type {type(value).__name__}; a list of texts is needed")
    return value, None


def _read_messages(value: Any, row: Row) -> TurnsAndSystem:
    """User turns and system message of role/content or from/value messages."""
    if not isinstance(value, list):
        raise ValueError(f"the messages are of type {type(value).__name__}; a list is needed")
    turns = []
    system = None
    for message in value:
        if not isinstance(message, Mapping):
            raise ValueError(f"a message is of type {type(message).__name__}; a mapping is needed")
        role = _read_role(message)
        content = message["content"] if "content" in message else message.get("value")
        is_first_system = role == "system" and system is None and not turns
        if role == "user":
            turns.append(content)
        elif is_first_system:
            system = content
        # The assistant's words are dropped, because the target answers itself.
        elif role != "assistant":
            raise ValueError(
                f"a message of role {role!r} in this place; "
                "only system first, then user and assistant"
            )
    return turns, system


def _read_role(message: Row) -> object:
    role = message.get("role") or message.get("from")
    if isinstance(role, str):
        return ROLES.get(role, role)
    return role


def _read_prompt(value: Any, row: Row) -> TurnsAndSystem:
    """One user turn, or messages up to it."""
    # TRL keeps the answers in a column of their own, "completion".
    if isinstance(value, list):
        return _read_messages(value, row)
    return [value], None


def _read_instruction(value: Any, row: Row) -> TurnsAndSystem:
    """One user turn: the instruction, and the input below it."""
    material = row.get("input")
    if material is not None and not isinstance(material, str):
        raise ValueError(f"'input' is of type {type(material).__name__}; text is needed")
    if not material or not material.strip():
        return [value], None
    return [f"{_check_text(value, 'instruction')}\n\n{material}"], None


_READERS: dict[str, Callable[[Any, Row], TurnsAndSystem]] = {
    "turns": _read_turns,
    "messages": _read_messages,
    "conversations": _read_messages,
    "prompt": _read_prompt,
    "instruction": _read_instruction,
}


def _check_turns(turns: list, column: str) -> list[str]:
    checked = []
    for number, turn in enumerate(turns):
        checked.append(_check_text(turn, f"turn {number} of {column!r}"))
    return checked


def _check_text(value: object, what: str) -> str:
    """The value itself where it is text that a tokenizer can encode."""
    if not isinstance(value, str):
        raise ValueError(f"{what} is of type {type(value).__name__}; text is needed")
    if not value.strip():
        raise ValueError(f"{what} is empty")
    if any(FIRST_SURROGATE <= letter <= LAST_SURROGATE for letter in value):
        raise ValueError(f"{what} holds half a surrogate pair, which no tokenizer can read")
    return value


def _read_id(row: Row, default: str) -> str:
    value = row.get("id")
    if value is None or value == "":
        return default
    # True and False are ints in Python.
    is_name = isinstance(value, (str, int)) and not isinstance(value, bool)
    if not is_name:
        raise ValueError(
            f"'id' is of type {type(value).__name__}; text or a whole number is needed"
        )
    return _check_text(str(value), "'id'")


def _read_word(row: Row, key: str, default: str) -> str:
    value = row.get(key)
    if value is None or value == "":
        return default
    return _check_text(value, f"{key!r}")
