"""Messages: checked as they arrive, and given to chat templates in one form.

Rows come from many places, so the same thing arrives in several forms:

- The reasoning of an answer is called `reasoning`, `reasoning_content` or `thinking`. Templates
  read one of the last two, so both are given.
- The content of a message that only calls tools is None, "" or missing. Templates are given the
  message without the key, as transformers gives it to them.
- The arguments of a tool call are a mapping or JSON text. Templates are given the mapping.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from eagle_hf.data.rows import Message, describe_type

REASONING_NAMES = ("reasoning_content", "thinking", "reasoning")


def check_messages(messages: object, *, are_rendered: bool = True) -> None:
    """Refuse anything that is not a list of messages ending with the assistant.

    The assistant's are text. Others may be lists of text and image parts.

    Args:
        messages: the `messages` of a `Conversation`, as found in a file or dataset.
        are_rendered: whether a template reads them. Where token ids are learned instead, a target
            may have called a tool with arguments that are no JSON.

    Raises:
        ValueError: names the first thing that is wrong.
    """
    if not isinstance(messages, list) or not messages:
        raise ValueError(
            f"messages is {describe_type(messages)}; a list of {{'role', 'content'}} is needed"
        )
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise ValueError(
                f"message {index} is {describe_type(message)}; a {{'role', 'content'}} is needed"
            )
        _check_message(message, index)
        if are_rendered:
            _check_arguments(message, index)
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise ValueError(f"no assistant turn among the roles {roles}; there is nothing to learn")
    if roles[0] == "assistant":
        raise ValueError(
            "the first message is from the assistant, which answers nothing; drop it, or put the "
            "prompt before it"
        )
    if roles[-1] != "assistant":
        raise ValueError(
            f"the last message is from {roles[-1]!r}; drop it or let the target answer it"
        )


def _check_message(message: Mapping[str, Any], index: int) -> None:
    """Refuse a message without a role, without content, or with calls that name no tool."""
    content = message.get("content")
    calls = message.get("tool_calls")
    has_content = isinstance(content, str | list)
    only_calls = content is None and bool(calls)
    is_message = isinstance(message.get("role"), str) and (has_content or only_calls)
    if not is_message:
        found = {key: type(value).__name__ for key, value in message.items()}
        raise ValueError(
            f"message {index} holds {found}; role must be text, content text or a list of parts"
        )
    if isinstance(content, list):
        _check_parts(content, index, message["role"])
    if calls:
        _check_calls(calls, index)


def _check_parts(parts: list, index: int, role: str) -> None:
    """Refuse parts of message `index` that are neither text nor images, and an assistant's."""
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        is_text = kind == "text" and isinstance(part.get("text"), str)
        if not is_text and kind != "image":
            found = dict(part) if isinstance(part, Mapping) else describe_type(part)
            raise ValueError(
                f"message {index} has the part {found!r:.80}; parts are "
                '{"type": "text", "text": ...} or {"type": "image", ...}'
            )
    if role == "assistant" and any(part["type"] == "image" for part in parts):
        raise ValueError(f"message {index} of the assistant holds an image; answers are text")


def _check_calls(calls: object, index: int) -> None:
    """Refuse tool calls of message `index` without a name."""
    if not isinstance(calls, list):
        raise ValueError(f"tool_calls of message {index} is {describe_type(calls)}; give a list")
    for call in calls:
        function = _function_of(call)
        if not isinstance(function.get("name"), str):
            raise ValueError(
                f"a tool call of message {index} is {call!r:.80}; give it "
                '{"function": {"name": ..., "arguments": {...}}}'
            )


def _check_arguments(message: Mapping[str, Any], index: int) -> None:
    """Refuse tool calls of message `index` with arguments that are no object."""
    for call in message.get("tool_calls") or ():
        function = _function_of(call)
        if not isinstance(_arguments_of(function), Mapping):
            raise ValueError(
                f"message {index} calls {function['name']!r} with the arguments "
                f"{function['arguments']!r:.80}; a mapping, or a JSON object as text, is needed"
            )


def template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Give messages the form that chat templates read.

    Args:
        messages: checked.

    Returns:
        Copies. Nothing of them is None, reasoning has the names that templates read, and the
        arguments of tool calls are mappings.
    """
    return [_template_message(message) for message in messages]


def _template_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """One message in the form that templates read."""
    plain = {key: value for key, value in message.items() if value is not None}
    for name in REASONING_NAMES:
        if name in plain:
            reasoning = plain[name]
            plain["reasoning_content"] = reasoning
            plain["thinking"] = reasoning
            break
    if plain.get("tool_calls"):
        plain["tool_calls"] = [_template_call(call) for call in plain["tool_calls"]]
    return plain


def _template_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A tool call with its arguments as a mapping."""
    function = _function_of(call)
    function = {**function, "arguments": _arguments_of(function)}
    plain = {key: value for key, value in call.items() if value is not None}
    if "function" in plain:
        return {**plain, "function": function}
    return {**plain, **function}


def _function_of(call: Any) -> Mapping[str, Any]:
    """The name and arguments of a tool call, in the form of OpenAI's API or without its wrapper."""
    if not isinstance(call, Mapping):
        return {}
    function = call.get("function")
    return function if isinstance(function, Mapping) else call


def _arguments_of(function: Mapping[str, Any]) -> Any:
    """The arguments of a call; JSON text is parsed, and stays text where it is none."""
    arguments = function.get("arguments")
    if arguments is None:
        return {}
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def called_tools(message: Mapping[str, Any]) -> list[str]:
    """The names of the tools that a checked message calls, in order."""
    return [_function_of(call)["name"] for call in message.get("tool_calls") or ()]


def image_parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parts of a checked message that are images, in order."""
    content = message.get("content")
    if not isinstance(content, list):
        return []
    return [part for part in content if part["type"] == "image"]


def with_text_content(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message with its content as text, where it holds no image."""
    content = message.get("content")
    if not isinstance(content, list):
        return dict(message)
    if image_parts(message):
        return with_content_parts(message)
    return {**message, "content": "".join(part["text"] for part in content)}


def with_content_parts(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message with its content as a list of parts, each without the fields that are None."""
    content = message.get("content")
    if content is None:
        return dict(message)
    if isinstance(content, str):
        return {**message, "content": [{"type": "text", "text": content}]}
    parts = []
    for part in content:
        parts.append({key: value for key, value in part.items() if value is not None})
    return {**message, "content": parts}
