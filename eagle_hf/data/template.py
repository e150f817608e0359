"""The chat template, used in one way everywhere: messages become text by rendering, never by hand.

A message is `{"role": ..., "content": ...}`. What a template adds on its own (a default system
message, say) is kept: it is what the target sees in service too.
"""

import hashlib

from jinja2.exceptions import TemplateError

SENTINEL = "EAGLEHFUSERTURN"


def chat_template(tokenizer) -> str:
    """The tokenizer's default chat template; a tokenizer without one is refused."""
    if not tokenizer.chat_template:
        name = tokenizer.name_or_path or type(tokenizer).__name__
        raise ValueError(
            f"the tokenizer {name!r} has no chat template, and conversations can only be rendered with one; "
            "set tokenizer.chat_template or use the instruct model and its tokenizer"
        )
    return tokenizer.get_chat_template()


def template_sha256(tokenizer) -> str:
    """The chat template's hash: data rendered under one hash must not be mixed with another."""
    return hashlib.sha256(chat_template(tokenizer).encode()).hexdigest()


def render_text(tokenizer, messages: list[dict], *, add_generation_prompt: bool = False) -> str:
    """The messages as the target reads them; what the template itself refuses is a ValueError."""
    chat_template(tokenizer)
    try:
        return tokenizer.apply_chat_template(
            messages, add_generation_prompt=add_generation_prompt, tokenize=False
        )
    except TemplateError as error:
        roles = [message.get("role") for message in messages]
        raise ValueError(
            f"the chat template refuses messages with the roles {roles}: {error}; drop or reorder the messages"
        ) from error


def user_turn_prefix(tokenizer, system: str | None = None) -> str:
    """The rendered text up to the point where a first user turn begins (Magpie's prompt)."""
    messages = [{"role": "system", "content": system}] if system else []
    text = render_text(tokenizer, [*messages, {"role": "user", "content": SENTINEL}])
    if text.count(SENTINEL) != 1:
        raise ValueError(
            f"the chat template shows a user message {text.count(SENTINEL)} times, but it must appear once for its "
            "start to be found; pass prompts from a file instead"
        )
    return text[: text.index(SENTINEL)]
