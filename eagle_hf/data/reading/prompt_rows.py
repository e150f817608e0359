"""The prompt in one row of a file or dataset, whichever of the common columns holds it.

    turns                  ["first question", "second question"]
    messages               [{"role": "user", "content": "..."}, ...]
    conversations          [{"from": "human", "value": "..."}, ...] (ShareGPT); also: conversation
    prompt                 "question", or messages as above (TRL)
    instruction, input     "task" and "material" (Alpaca); Dolly calls the material context
    text                   "question", where no other column is filled

`tools` and `chat_template_kwargs` stay with the prompt, for whoever renders it. Every refusal is a
ValueError whose text says what the row holds and what is needed.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from eagle_hf.data.reading.roles import check_order, read_role
from eagle_hf.data.reading.row_values import (
    Row,
    check_encodable,
    check_message_list,
    check_text,
    is_text_part,
    read_content,
    read_id,
    read_word,
)
from eagle_hf.data.rows import Prompt
from eagle_hf.data.templates.arguments import TemplateArguments

# The first one that is filled counts.
COLUMNS = ("turns", "messages", "conversations", "conversation", "prompt", "instruction", "text")
MATERIAL_COLUMNS = ("input", "context")
# What the template is given beside the messages.
TEMPLATE_COLUMNS = ("tools", "chat_template_kwargs")

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

TurnsAndSystem = tuple[list, Any]  # not checked yet: a turn may be anything


def prompt_from_row(row: object, *, default_id: str, source: str) -> Prompt:
    """Read the prompt that a row holds.

    Args:
        row: a mapping with one of `COLUMNS`, and optionally `id`, `system`, `category`, `source`,
            `tools` and `chat_template_kwargs`.
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
    # What cannot be rendered is refused here, with the number of its row.
    check_template_columns(row)
    for column in TEMPLATE_COLUMNS:
        if row.get(column):
            prompt[column] = row[column]
    return prompt


def check_template_columns(row: Row) -> None:
    """Refuse tools and variables of the template that cannot be rendered.

    Args:
        row: may hold `tools` and `chat_template_kwargs`.

    Raises:
        ValueError: names what is wrong.
    """
    found = {column: row[column] for column in TEMPLATE_COLUMNS if row.get(column)}
    if found:
        TemplateArguments().for_row(found)
        text = json.dumps(found, ensure_ascii=False, default=str)
        check_encodable(text, "'tools' or 'chat_template_kwargs'")


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
            turns.append(_joined_parts(read_content(message)))
        elif role == "system":
            system = _joined_parts(read_content(message))
    return turns, system


def _joined_parts(content: Any) -> Any:
    """The text of a content that is a list of text parts; any other content as it is."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        if not is_text_part(part):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise ValueError(f"a part of a message is of type {kind!r}; prompts are text")
        texts.append(part["text"])
    return "".join(texts)


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
