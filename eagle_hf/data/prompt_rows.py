"""The prompt in one row of a file or dataset, whichever of the common columns holds it.

    turns                  ["first question", "second question"]
    messages               [{"role": "user", "content": "..."}, ...]
    conversations          [{"from": "human", "value": "..."}, ...] (ShareGPT); also: conversation
    prompt                 "question", or messages as above (TRL)
    instruction, input     "task" and "material" (Alpaca); Dolly calls the material context
    text                   "question", where no other column is filled

Every refusal is a ValueError whose text says what the row holds and what is needed.
"""

from collections.abc import Callable, Mapping
from typing import Any

from eagle_hf.data.roles import check_order, read_role
from eagle_hf.data.rows import Prompt

# The first one that is filled counts.
COLUMNS = ("turns", "messages", "conversations", "conversation", "prompt", "instruction", "text")
MATERIAL_COLUMNS = ("input", "context")

# With these begins a turn in the text of a rendered chat.
TURN_MARKERS = (
    "<|im_start|>",
    "<|start_header_id|>",
    "<start_of_turn>",
    "<|start|>",
    "<|user|>",
    "[INST]",
    "### Human:",
    "### Assistant:",
    "### Response:",
)

# Halves of a surrogate pair: JSON can spell them ("\ud800"), UTF-8 cannot encode them.
FIRST_SURROGATE = "\ud800"
LAST_SURROGATE = "\udfff"

Row = Mapping[str, Any]
TurnsAndSystem = tuple[list, Any]  # not checked yet: a turn may be anything


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
        "id": read_id(row, default_id),
        "turns": _check_turns(turns, column),
        "category": read_word(row, "category", "other"),
        "source": read_word(row, "source", source),
    }
    if not prompt["turns"]:
        raise ValueError(f"{column!r} has no user turn")
    if system:
        prompt["system"] = check_text(system, "the system message")
    return prompt


def _find_column(row: Row) -> str:
    """The first of `COLUMNS` that is filled."""
    for name in COLUMNS:
        if row.get(name) is not None:
            return name
    raise ValueError(f"the row has the columns {list(row)}; one of {COLUMNS} is needed")


def _read_turns(value: Any, row: Row) -> TurnsAndSystem:
    """A list of user turns, as this project writes it."""
    if not isinstance(value, list):
        raise ValueError(f"'turns' is of type {type(value).__name__}; a list of texts is needed")
    return value, None


def _read_messages(value: Any, row: Row) -> TurnsAndSystem:
    """User turns and system message of role/content or from/value messages.

    The assistant's words are dropped, because the target answers itself.
    """
    check_message_list(value)
    roles = [read_role(message) for message in value]
    if "tool" in roles:
        raise ValueError(
            f"a message of role 'tool' among the roles {roles}; "
            "what a tool answered to another model cannot be asked again"
        )
    check_order(roles)
    turns = []
    system = None
    for role, message in zip(roles, value, strict=True):
        if role == "user":
            turns.append(read_content(message))
        elif role == "system":
            system = read_content(message)
    return turns, system


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


def _read_prompt(value: Any, row: Row) -> TurnsAndSystem:
    """One user turn, or messages up to it."""
    # TRL keeps the answers in a column of their own, "completion".
    if isinstance(value, list):
        return _read_messages(value, row)
    return [value], None


def _read_instruction(value: Any, row: Row) -> TurnsAndSystem:
    """One user turn: the instruction, and the material below it."""
    for column in MATERIAL_COLUMNS:
        material = row.get(column)
        if material is not None and not isinstance(material, str):
            raise ValueError(f"{column!r} is of type {type(material).__name__}; text is needed")
        if material and material.strip():
            return [f"{check_text(value, 'instruction')}\n\n{material}"], None
    return [value], None


def _read_text(value: Any, row: Row) -> TurnsAndSystem:
    """One user turn of plain text."""
    text = check_text(value, "'text'")
    for marker in TURN_MARKERS:
        if marker in text:
            raise ValueError(
                f"'text' holds {marker!r}: a chat that a template has rendered; "
                "its messages are needed"
            )
    return [text], None


_READERS: dict[str, Callable[[Any, Row], TurnsAndSystem]] = {
    "turns": _read_turns,
    "messages": _read_messages,
    "conversations": _read_messages,
    "conversation": _read_messages,
    "prompt": _read_prompt,
    "instruction": _read_instruction,
    "text": _read_text,
}


def _check_turns(turns: list, column: str) -> list[str]:
    checked = []
    for number, turn in enumerate(turns):
        checked.append(check_text(turn, f"turn {number} of {column!r}"))
    return checked


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
    if any(FIRST_SURROGATE <= letter <= LAST_SURROGATE for letter in value):
        raise ValueError(f"{what} holds half a surrogate pair, which no tokenizer can read")
    return value


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
