"""conversations.jsonl: one finished conversation a line, for people and `load_conversations`.

The store (store.py) is the truth while answers arrive. This file follows it: a conversation is
appended when its last turn is kept, and what a killed run left out is appended by the next one.
Folders of earlier versions have this file alone; what stands in it counts as answered.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eagle_hf.data.answers.store import TurnStore
from eagle_hf.data.answers.turns import FinishedTurn, OpenConversation
from eagle_hf.data.examples.kept_answers import message_sha256
from eagle_hf.data.examples.turns import ROW_FORMAT
from eagle_hf.data.rows import Conversation, Prompt, ServedTurn

CONVERSATIONS = "conversations.jsonl"


def conversation_row(prompt: Prompt, turns: list[FinishedTurn]) -> Conversation | None:
    """Put a conversation into the form that is kept in files.

    Args:
        prompt: the user turns.
        turns: the answers so far.

    Returns:
        The row; None where a turn is missing, or nothing comes of the conversation.
    """
    conversation = OpenConversation(prompt, turns)
    is_whole = conversation.is_finished and conversation.ended_early is None
    if not is_whole:
        return None
    answers = iter(turns)
    messages = []
    for message in conversation.messages:
        is_answer = message["role"] == "assistant"
        messages.append(_kept_message(next(answers)) if is_answer else message)
    return {
        "format": ROW_FORMAT,
        "id": prompt["id"],
        "messages": messages,
        "served_turns": [_served_turn(turn) for turn in turns],
        "tools": _as_json_text(prompt.get("tools")),
        "chat_template_kwargs": _as_json_text(prompt.get("chat_template_kwargs")),
        "source": prompt.get("source", "other"),
        "category": prompt.get("category", "other"),
    }


def _kept_message(turn: FinishedTurn) -> Any:
    """The answer as a message, arguments of tool calls as JSON text."""
    message: Any = turn.message()
    if turn.tool_calls:
        message["tool_calls"] = [_kept_call(call) for call in turn.tool_calls]
    return message


def _kept_call(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call with arguments that are of one type in every row of a table."""
    function = call.get("function") or call
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        function = {**function, "arguments": json.dumps(arguments or {}, ensure_ascii=False)}
    return {**call, "function": function} if "function" in call else function


def _served_turn(turn: FinishedTurn) -> ServedTurn:
    """An answer by token."""
    return {
        "prompt_ids": turn.prompt_ids,
        "response_ids": turn.response_ids,
        "finish_reason": turn.finish_reason,
        "prompt_ids_from": turn.prompt_ids_from,
        "response_ids_from": turn.response_ids_from,
        "message_sha256": message_sha256(_kept_message(turn)),
    }


def _as_json_text(value: Any) -> str:
    """A field as JSON text, "" where it is empty.

    Tables need one type in all rows, and would fill what one row lacks with the keys of others.
    """
    if not value:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def stored_conversations(folder: str | Path) -> Iterator[Conversation]:
    """Read the finished conversations of a folder that has a store alone.

    Args:
        folder: holds a turns.sqlite.

    Yields:
        Every conversation whose turns are all answered.
    """
    with TurnStore(folder) as store:
        for prompt in store.prompts():
            row = conversation_row(prompt, store.turns(prompt["id"]))
            if row is not None:
                yield row


class ConversationFile:
    """The file of a folder that answers are written to; use it as a context manager.

    Args:
        folder: exists. A last line that a killed run tore is cut off.

    Raises:
        ValueError: a line before the last is no conversation.
    """

    def __init__(self, folder: str | Path):
        self.path = Path(folder) / CONVERSATIONS
        self._questions = _read_questions(self.path)
        # Unbuffered: what could not be written is not tried once more when the file is closed.
        self._file = self.path.open("ab", buffering=0)

    def __enter__(self) -> "ConversationFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def holds(self, prompt: Prompt) -> bool:
        """Whether the file holds a conversation of a prompt.

        Args:
            prompt: the user turns.

        Returns:
            Whether it is answered.

        Raises:
            ValueError: the file holds an answer to another prompt under this id.
        """
        found = self._questions.get(prompt["id"])
        if found is None:
            return False
        if found not in _possible_questions(prompt):
            raise ValueError(
                f"{self.path} holds an answer to another prompt with the id {prompt['id']!r}; give "
                "changed prompts new ids or choose another folder"
            )
        return True

    def add(self, prompt: Prompt, turns: list[FinishedTurn]) -> None:
        """Append a conversation whose turns are all answered, unless the file holds it.

        Args:
            prompt: the user turns.
            turns: all answers.

        Raises:
            ValueError: the file cannot be written.
        """
        if self.holds(prompt):
            return
        row = conversation_row(prompt, turns)
        assert row is not None, "only whole conversations are written"
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        try:
            written = self._file.write(line)
        except OSError as error:
            raise self._unwritable(error) from error
        if written != len(line):
            # The next run cuts the torn line off.
            raise self._unwritable(OSError(f"{written} of {len(line)} bytes were written"))
        self._questions[prompt["id"]] = _question_of_row(row)

    def sync(self) -> None:
        """Write what was added to the disk itself.

        Raises:
            ValueError: the disk cannot be written.
        """
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> ValueError:
        """What a full or broken disk means for the run."""
        return ValueError(
            f"{self.path} cannot be written ({error}); a rerun goes on where this one stopped"
        )


def _question_of_row(row: Mapping[str, Any]) -> bytes:
    """A digest of what was asked in a conversation, as far as its row says."""
    asked = []
    for message in row.get("messages") or ():
        if message["role"] != "assistant":
            asked.append([message["role"], message["content"]])
    if "format" not in row:
        # The first format kept the messages alone.
        return _digest([asked])
    return _digest([asked, row.get("tools", ""), row.get("chat_template_kwargs", "")])


def _possible_questions(prompt: Prompt) -> Sequence[bytes]:
    """The digests that the row of a prompt may have, in this format and in the first."""
    asked: list[Any] = []
    if prompt.get("system"):
        asked.append(["system", prompt.get("system")])
    asked += [["user", turn] for turn in prompt["turns"]]
    tools = _as_json_text(prompt.get("tools"))
    variables = _as_json_text(prompt.get("chat_template_kwargs"))
    return (_digest([asked, tools, variables]), _digest([asked]))


def _digest(value: Any) -> bytes:
    """16 bytes that stand for a value."""
    return hashlib.sha256(json.dumps(value).encode()).digest()[:16]


def _read_questions(path: Path) -> dict[str, bytes]:
    """What was asked in the conversations of a file, by id; none where there is no file."""
    questions: dict[str, bytes] = {}
    if not path.exists():
        return questions
    whole_bytes = 0
    fault = None
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if fault is not None:
                raise fault
            try:
                if not line.endswith(b"\n"):
                    raise ValueError("no newline")
                row = json.loads(line)
                questions[row["id"]] = _question_of_row(row)
                whole_bytes += len(line)
            except (ValueError, KeyError, TypeError) as error:
                fault = ValueError(
                    f"line {number} of {path} is not a conversation ({error}); "
                    "delete that line or the folder"
                )
    if fault is not None:
        # The run was killed while it wrote the last line.
        os.truncate(path, whole_bytes)
    return questions
