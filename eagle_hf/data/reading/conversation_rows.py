"""The finished conversation in one row of a file or dataset, whichever columns hold it.

    messages                       [{"role": "user", "content": "..."}, {"role": "assistant", ...}]
    conversations, conversation    [{"from": "human", "value": "..."}, {"from": "gpt", ...}]
    prompt, completion             "question" and "answer", or messages (TRL)
    instruction, input, output     "task", "material" and "answer" (Alpaca)

The answer's column may also be called `response`. Whatever else a row or a message holds (tools,
reasoning, arguments of the template) stays in it, for whoever renders the conversation.
"""

import json
from collections.abc import Mapping
from typing import Any

from eagle_hf.data.reading.prompt_rows import (
    MATERIAL_COLUMNS,
    check_template_columns,
    prompt_from_row,
)
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
from eagle_hf.data.rows import Conversation
from eagle_hf.data.templates.messages import REASONING_NAMES

MESSAGE_COLUMNS = ("messages", "conversations", "conversation")
PROMPT_COLUMNS = ("prompt", "instruction")
ANSWER_COLUMNS = ("completion", "response", "output")
# Where an answer without content may say something.
OTHER_WORDS = ("tool_calls", *REASONING_NAMES)
# What the messages replace, and what stands in them now.
REPLACED = {*MESSAGE_COLUMNS, *PROMPT_COLUMNS, *ANSWER_COLUMNS, *MATERIAL_COLUMNS, "system"}


def conversation_from_row(row: object, *, default_id: str, source: str) -> Conversation:
    """Read the finished conversation that a row holds.

    Args:
        row: a mapping with messages, or with a prompt and its answer.
        default_id: for a row without an id.
        source: for a row without a source.

    Returns:
        The conversation; its last message is the assistant's.

    Raises:
        ValueError: the row holds no finished conversation; the text says why.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"the row is of type {type(row).__name__}; a mapping is needed")
    messages = _read_messages(row)
    check_order([message["role"] for message in messages])
    is_served = row.get("served_turns") is not None
    for number, message in enumerate(messages):
        # The ids of a served answer say what it is; its text may be empty.
        if not (is_served and message["role"] == "assistant"):
            _check_content(message, number)
        _check_encodable(message, f"message {number} of role {message['role']!r}")
    if messages[-1]["role"] != "assistant":
        raise ValueError(
            f"the last message is from {messages[-1]['role']!r}; "
            "drop it, or read the row as a prompt that the target answers"
        )
    others = {key: value for key, value in row.items() if key not in REPLACED}
    filled: Any = {key: value for key, value in others.items() if value is not None}
    check_template_columns(filled)
    filled["id"] = read_id(row, default_id)
    filled["messages"] = messages
    filled["source"] = read_word(row, "source", source)
    filled["category"] = read_word(row, "category", "other")
    return filled


def _read_messages(row: Row) -> list[dict[str, Any]]:
    """The messages of a row, all of them with a role and a content."""
    for column in MESSAGE_COLUMNS:
        if row.get(column) is not None:
            messages = _standard_messages(row[column])
            return _with_system(messages, row)
    answer = _find_answer(row)
    if isinstance(row.get("prompt"), list):
        question = _standard_messages(row["prompt"])
    else:
        question = _question(row)
    if not isinstance(answer, list):
        answer = [{"role": "assistant", "content": answer}]
    return _with_system(question + _standard_messages(answer), row)


def _find_answer(row: Row) -> Any:
    """What stands in the column of the answer."""
    has_prompt = any(row.get(column) is not None for column in PROMPT_COLUMNS)
    answers = [row[column] for column in ANSWER_COLUMNS if row.get(column) is not None]
    if not has_prompt or not answers:
        raise ValueError(
            f"the row has the columns {list(row)}; needed is one of {MESSAGE_COLUMNS}, "
            f"or one of {PROMPT_COLUMNS} with one of {ANSWER_COLUMNS}"
        )
    return answers[0]


def _question(row: Row) -> list[dict[str, Any]]:
    """The user's message, from the columns of a prompt."""
    columns = {key: row.get(key) for key in (*PROMPT_COLUMNS, *MATERIAL_COLUMNS)}
    prompt = prompt_from_row(columns, default_id="unused", source="unused")
    return [{"role": "user", "content": prompt["turns"][0]}]


def _standard_messages(value: object) -> list[dict[str, Any]]:
    """Role/content messages of either kind. Fields that are empty in this row are left out."""
    check_message_list(value)
    assert isinstance(value, list)
    if not value:
        raise ValueError("the messages are an empty list; a user's and an assistant's are needed")
    messages = []
    for message in value:
        # Templates ask whether a message has tool_calls, and a table has the column in every row.
        filled = {key: part for key, part in message.items() if part is not None}
        filled.pop("from", None)
        filled.pop("value", None)
        messages.append(filled | {"role": read_role(message), "content": read_content(message)})
    return messages


def _with_system(messages: list[dict[str, Any]], row: Row) -> list[dict[str, Any]]:
    """The messages behind the system message of the row's own column, where they have none."""
    system = row.get("system")
    if not system or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]


def _check_content(message: dict[str, Any], number: int) -> None:
    """Refuse a message that says nothing, or that no tokenizer can read."""
    content = message["content"]
    has_other_words = any(message.get(name) for name in OTHER_WORDS)
    if message["role"] == "assistant" and has_other_words and not content:
        return
    # Parts that are no text are checked where they are rendered.
    if isinstance(content, list):
        texts = [part.get("text") for part in content if is_text_part(part)]
        if len(texts) < len(content):
            return
        content = "".join(texts)
    # What a tool answers may be empty.
    if message["role"] == "tool" and content == "":
        return
    check_text(content, f"message {number} of role {message['role']!r}")


def _check_encodable(message: dict[str, Any], what: str) -> None:
    """Refuse a message of which some part holds what no tokenizer can read."""
    if message.keys() == {"role", "content"} and isinstance(message["content"], str):
        return
    check_encodable(json.dumps(message, ensure_ascii=False, default=str), what)
