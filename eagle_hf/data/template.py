"""The chat template, used in one way everywhere: messages become text by rendering, never by hand.

What a template adds on its own (a default system message, say) is kept: the target meets it in
service too.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from eagle_hf.data.images import image_parts, tokenizer_of
from eagle_hf.data.rows import Message

SENTINEL = "EAGLEHFUSERTURN"  # a user turn that no template contains by itself
PRINTED_PART = "{'type': "  # how a template for text shows a list of parts
TEMPLATE_ERRORS = (TemplateError, TypeError)  # the second from text + list


def chat_template(tokenizer: Any) -> str:
    """Get the default chat template.

    Args:
        tokenizer: the target's tokenizer or processor.

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
    return template if isinstance(template, str) else inner.get_chat_template()


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
) -> str:
    """Render messages as the target meets them.

    Some templates read contents that are text, some read lists of parts, and a template that is
    given the other kind often shows nothing of it. So a text that lacks the turns is rendered once
    more in the other form.

    Args:
        tokenizer: the target's tokenizer or processor, with a chat template.
        messages: turns of one conversation.
        add_generation_prompt: end with the text that opens the assistant's turn.

    Returns:
        The rendered text.

    Raises:
        ValueError: the template itself refuses the messages, or there is no template.
    """
    template = chat_template(tokenizer)
    inner = tokenizer_of(tokenizer)
    has_images = any(image_parts(message) for message in messages)
    as_text = [_joined(message) for message in messages]
    in_parts = [_parted(message) for message in messages]
    usual, other = (in_parts, as_text) if has_images else (as_text, in_parts)
    text, error = _rendered(inner, template, usual, add_generation_prompt)
    if text is not None and _shows_turns(text, messages, has_images):
        return text
    in_other_form, _ = _rendered(inner, template, other, add_generation_prompt)
    if in_other_form and _shows_turns(in_other_form, messages, has_images):
        return in_other_form
    if text is not None:
        return text
    roles = [message.get("role") for message in messages]
    raise ValueError(
        f"the chat template refuses messages with the roles {roles}: {error}; "
        "drop or reorder the messages"
    ) from error


def _rendered(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    turns: list[dict[str, Any]],
    add_generation_prompt: bool,
) -> tuple[str | None, Exception | None]:
    """The template's text, or what it raised."""
    try:
        text = tokenizer.apply_chat_template(
            turns,
            chat_template=template,
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
        )
    except TEMPLATE_ERRORS as error:
        return None, error
    assert isinstance(text, str), "tokenize=False renders text"
    return text, None


def _joined(message: Message) -> dict[str, Any]:
    """The message with its content as text, where it holds no image."""
    content = message["content"]
    if isinstance(content, str):
        return dict(message)
    if image_parts(message):
        return _parted(message)
    return {**message, "content": "".join(part["text"] for part in content)}


def _parted(message: Message) -> dict[str, Any]:
    """The message with its content as a list of parts, each without the fields that are None."""
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": [{"type": "text", "text": content}]}
    parts = []
    for part in content:
        parts.append({key: value for key, value in part.items() if value is not None})
    return {**message, "content": parts}


def _shows_turns(text: str, messages: Sequence[Message], has_images: bool) -> bool:
    """Whether a rendered text shows the last user turn; with images also the last answer."""
    if PRINTED_PART in text:
        return False
    roles = ["user", "assistant"] if has_images else ["user"]
    last = {message["role"]: message for message in messages}
    for role in roles:
        if role not in last:
            continue
        for part in _parted(last[role])["content"]:
            if part["type"] == "text" and part["text"].strip() not in text:
                return False
    return True


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


def user_turn_prefix(tokenizer: PreTrainedTokenizerBase, system: str | None = None) -> str:
    """Render a conversation up to the point where its first user turn begins (Magpie's prompt).

    Args:
        tokenizer: the target's tokenizer, with a chat template.
        system: system message. Default: none, or the template's own.

    Returns:
        The text before the user's first word.

    Raises:
        ValueError: the template shows a user message twice or not at all.
    """
    messages: list[Message] = []
    if system:
        messages.append({"role": "system", "content": system})
    messages.append({"role": "user", "content": SENTINEL})
    text = render_text(tokenizer, messages)
    # Templates that quote or repeat the user leave no single point to stop at.
    if text.count(SENTINEL) != 1:
        raise ValueError(
            f"the chat template shows a user message {text.count(SENTINEL)} times, but it must "
            "appear once for its start to be found; pass prompts from a file instead"
        )
    return text[: text.index(SENTINEL)]
