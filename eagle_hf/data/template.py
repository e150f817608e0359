"""The chat template, used in one way everywhere: messages become text by rendering, never by hand.

What a template adds on its own (a default system message, say) is kept: the target meets it in
service too.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from eagle_hf.data.rows import Message

SENTINEL = "EAGLEHFUSERTURN"  # a user turn that no template contains by itself


def chat_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Get the tokenizer's default chat template.

    Args:
        tokenizer: the target's tokenizer.

    Returns:
        The template's Jinja source.

    Raises:
        ValueError: the tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        name = tokenizer.name_or_path or type(tokenizer).__name__
        raise ValueError(
            f"the tokenizer {name!r} has no chat template, and conversations can only be rendered "
            "with one; set tokenizer.chat_template or use the instruct model and its tokenizer"
        )
    return tokenizer.get_chat_template()


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
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = False,
) -> str:
    """Render messages as the target meets them.

    Args:
        tokenizer: the target's tokenizer, with a chat template.
        messages: turns of one conversation.
        add_generation_prompt: end with the text that opens the assistant's turn.

    Returns:
        The rendered text.

    Raises:
        ValueError: the template itself refuses the messages, or there is no template.
    """
    chat_template(tokenizer)  # refuses a tokenizer without one
    turns: list[Any] = list(messages)
    try:
        text = tokenizer.apply_chat_template(
            turns, add_generation_prompt=add_generation_prompt, tokenize=False
        )
    except TemplateError as error:
        roles = [message.get("role") for message in messages]
        raise ValueError(
            f"the chat template refuses messages with the roles {roles}: {error}; "
            "drop or reorder the messages"
        ) from error
    assert isinstance(text, str), "tokenize=False renders text"
    return text


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
