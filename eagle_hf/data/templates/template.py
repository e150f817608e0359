"""The chat template, used in one way everywhere: messages become text by rendering, never by hand.

What a template adds on its own (a default system message, say) is kept: the target meets it in
service too.
"""

import hashlib
import json
from collections.abc import Container, Sequence
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from eagle_hf.data.examples.images import tokenizer_of
from eagle_hf.data.rows import Message
from eagle_hf.data.templates.arguments import TemplateArguments, tool_names
from eagle_hf.data.templates.messages import (
    image_parts,
    template_messages,
    with_content_parts,
    with_text_content,
)

SENTINEL = "EAGLEHFUSERTURN"  # a user turn that no template contains by itself
PRINTED_PART = "{'type': "  # how a template for text shows a list of parts
# What expressions of a template raise: text + list, a division, a missing entry, an endless macro.
TEMPLATE_ERRORS = (
    TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
)


def chat_template(tokenizer: Any, tools: list[dict[str, Any]] | None = None) -> str:
    """Get the default chat template, or the one for tools where there are several.

    Args:
        tokenizer: the target's tokenizer or processor.
        tools: that the conversation may call.

    Returns:
        The template's Jinja source.

    Raises:
        ValueError: there is no chat template.
    """
    inner = tokenizer_of(tokenizer)
    template = tokenizer.chat_template or inner.chat_template
    if not template:
        name = inner.name_or_path or type(tokenizer).__name__
        raise ValueError(
            f"the tokenizer {name!r} has no chat template, and conversations can only be rendered "
            "with one; set tokenizer.chat_template or use the instruct model and its tokenizer"
        )
    return template if isinstance(template, str) else inner.get_chat_template(tools=tools)


def template_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash the chat template: data rendered under one hash must not be mixed with another.

    Args:
        tokenizer: the target's tokenizer.

    Returns:
        SHA-256 of the template's source, as hexadecimal digits.

    Raises:
        ValueError: the tokenizer has no chat template.
    """
    return hashlib.sha256(chat_template(tokenizer).encode()).hexdigest()


def render_text(
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = False,
    arguments: TemplateArguments | None = None,
) -> str:
    """Render messages as the target meets them.

    Some templates read contents that are text, some read lists of parts, and a template that is
    given the other kind often shows nothing of it. So a text that lacks the turns is rendered once
    more in the other form.

    Args:
        tokenizer: the target's tokenizer or processor, with a chat template.
        messages: turns of one conversation.
        add_generation_prompt: end with the text that opens the assistant's turn.
        arguments: what the template is given besides. Default: nothing.

    Returns:
        The rendered text.

    Raises:
        ValueError: the template itself refuses the messages, leaves a tool out, or there is no
            template; or the text holds half a surrogate, which no tokenizer reads.
    """
    given = arguments or TemplateArguments()
    template = given.dated(chat_template(tokenizer, given.tools))
    settings = {
        "chat_template": template,
        "tools": given.tools,
        "add_generation_prompt": add_generation_prompt,
        **given.variables,
    }
    text = _rendered_either_way(tokenizer_of(tokenizer), messages, settings)
    _check_tools_shown(text, given.tools)
    _check_encodable(text)
    return text


def _rendered_either_way(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], settings: dict[str, Any]
) -> str:
    """The text of the messages, with their contents as text or as lists of parts."""
    plain = template_messages(messages)
    has_images = any(image_parts(message) for message in messages)
    as_text = [with_text_content(message) for message in plain]
    in_parts = [with_content_parts(message) for message in plain]
    usual, other = (in_parts, as_text) if has_images else (as_text, in_parts)
    text, error = _rendered(tokenizer, usual, settings)
    if text is not None and _shows_turns(text, messages, has_images):
        return text
    in_other_form, _ = _rendered(tokenizer, other, settings)
    if in_other_form and _shows_turns(in_other_form, messages, has_images):
        return in_other_form
    if text is not None:
        return text
    roles = [message.get("role") for message in messages]
    raise ValueError(
        f"the chat template refuses messages with the roles {roles}: {error}; "
        "drop or reorder the messages, or give the tools and chat_template_kwargs that it needs"
    ) from error


def _rendered(
    tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, Any]], settings: dict[str, Any]
) -> tuple[str | None, Exception | None]:
    """The template's text, or what it raised."""
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, **settings)
    except TEMPLATE_ERRORS as error:
        return None, error
    assert isinstance(text, str), "tokenize=False renders text"
    return text, None


def _check_tools_shown(text: str, tools: list[dict[str, Any]] | None) -> None:
    """Refuse a text without the tools that the target may call."""
    missing = [name for name in tool_names(tools) if name not in text]
    if missing:
        raise ValueError(
            f"the chat template does not show the tool {missing[0]!r}, so the target would not "
            "know it; leave the row's tools out, or use a model whose template has them"
        )


def _check_encodable(text: str) -> None:
    """Refuse half a surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        around = text[max(0, error.start - 20) : error.start]
        raise ValueError(
            f"half a surrogate, {text[error.start]!r}, stands behind {around!r}, and no tokenizer "
            "reads it; mend the text where it was cut or decoded"
        ) from error


def _shows_turns(text: str, messages: Sequence[Message], has_images: bool) -> bool:
    """Whether a rendered text shows the last user turn; with images also the last answer."""
    if PRINTED_PART in text:
        return False
    roles = ["user", "assistant"] if has_images else ["user"]
    last = {message["role"]: message for message in messages}
    for role in roles:
        if role not in last:
            continue
        for part in with_content_parts(last[role]).get("content") or ():
            if part["type"] == "text" and part["text"].strip() not in text:
                return False
    return True


def check_shown(messages: Sequence[Message], text: str) -> None:
    """Refuse a rendered text that a message of the user, the system or a tool is missing from.

    Args:
        messages: all that were rendered, checked.
        text: rendered from them.

    Raises:
        ValueError: names the first such message.
    """
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            continue  # of history, templates drop thoughts
        for part in with_content_parts(message).get("content") or ():
            if part["type"] == "text" and not _shows_part(text, part["text"].strip()):
                raise ValueError(
                    f"the chat template leaves out message {index} of role {message['role']!r}, "
                    f"{part['text']!r:.40}, so the target would not know it; drop the message, or "
                    "use a model whose template has it"
                )


def _shows_part(text: str, part: str) -> bool:
    """Whether a rendered text shows what a message says, as it is or as a JSON string."""
    if part in text:
        return True
    for ascii_alone in (False, True):
        if json.dumps(part, ensure_ascii=ascii_alone)[1:-1] in text:
            return True
    return False


def decode_text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """Decode the tokens of a turn, without end-of-turn and other special tokens.

    Args:
        tokenizer: the target's tokenizer.
        ids: tokens of one turn.

    Returns:
        The turn's text.
    """
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert isinstance(text, str), "one list of ids is one text"
    return text


def without_end(ids: list[int], stop: Container[int]) -> list[int]:
    """The tokens of an answer before its end-of-turn token."""
    has_ended = bool(ids) and ids[-1] in stop
    return ids[:-1] if has_ended else ids


def answer_text(tokenizer: PreTrainedTokenizerBase, ids: list[int], stop: Container[int]) -> str:
    """Decode an answer as it is kept beside its ids, without its end-of-turn token.

    Args:
        tokenizer: the target's tokenizer.
        ids: of the answer.
        stop: tokens that end a turn.

    Returns:
        The text. Special tokens are in it where they part the answer (the channels of gpt-oss):
        without them its parts would run together.
    """
    text = tokenizer.decode(without_end(ids, stop), skip_special_tokens=False)
    assert isinstance(text, str), "one list of ids is one text"
    return text


def user_turn_prefix(
    tokenizer: PreTrainedTokenizerBase,
    system: str | None = None,
    arguments: TemplateArguments | None = None,
) -> str:
    """Render a conversation up to the point where its first user turn begins (Magpie's prompt).

    Args:
        tokenizer: the target's tokenizer, with a chat template.
        system: system message. Default: none, or the template's own.
        arguments: what the template is given besides. Default: nothing.

    Returns:
        The text before the user's first word.

    Raises:
        ValueError: the template shows a user message twice or not at all.
    """
    messages: list[Message] = []
    if system:
        messages.append({"role": "system", "content": system})
    messages.append({"role": "user", "content": SENTINEL})
    text = render_text(tokenizer, messages, arguments=arguments)
    # Templates that quote or repeat the user leave no single point to stop at.
    if text.count(SENTINEL) != 1:
        raise ValueError(
            f"the chat template shows a user message {text.count(SENTINEL)} times, but it must "
            "appear once for its start to be found; pass prompts from a file instead"
        )
    return text[: text.index(SENTINEL)]
