"""Conversations -> token ids and the mask of what is learnt, from render boundaries.

For every assistant turn the template is rendered twice: up to the generation prompt, and with the
answer. The difference is the response. Both parts are tokenised on their own, because that is the
boundary `generate` sees: the prompt's tokens are fixed before the first response token exists.

    ids    <user> hi <end> <assistant> | hello <end> | newline
    mask     0    0    0        0      |   1     1   |    0

`loss_mask[p]` speaks about `input_ids[p]` itself. Whoever shifts labels must shift the mask alike.
V target vocabulary.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch

from eagle_hf.data.template import chat_template, render_text

LEARNT, OTHER, RESET = "\x1b[32m", "\x1b[2m", "\x1b[0m"


class SkippedRow(NamedTuple):
    """A conversation left out, by its id, and why."""

    id: str
    reason: str


def eos_token_ids(target, tokenizer) -> set[int]:
    """Every token that ends a turn: those `generate` stops at and the tokenizer's own (None: there is no tokenizer)."""
    config = getattr(target, "generation_config", None)
    named = getattr(config, "eos_token_id", None)
    ids = set(named) if isinstance(named, (list, tuple)) else {named}
    ids = {
        int(token)
        for token in ids | {getattr(tokenizer, "eos_token_id", None)}
        if token is not None
    }
    if not ids:
        raise ValueError(
            "neither the target's generation_config nor the tokenizer names an end-of-turn token, so no response "
            "would ever end; set target.generation_config.eos_token_id or tokenizer.eos_token"
        )
    return ids


def render(
    tokenizer, messages: list[dict], *, eos_token_ids: Iterable[int], max_length: int | None = None
) -> tuple[list[int], list[int]]:
    """Token ids and loss mask of one conversation: 1 on every response up to and including its end-of-turn token.

    A segment without any of `eos_token_ids` counts whole. Raises ValueError when the conversation does not end
    with the assistant, a response is empty, the template re-renders history, or more than `max_length` tokens arise.
    """
    check_messages(messages)
    stop = frozenset(eos_token_ids)
    input_ids, loss_mask, rendered = [], [], ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt, full = _texts(tokenizer, messages, index, rendered)
        prompt_ids = _encode(tokenizer, prompt[len(rendered) :])
        response_ids = _encode(tokenizer, full[len(prompt) :])
        input_ids += prompt_ids + response_ids
        loss_mask += [0] * len(prompt_ids) + _response_mask(response_ids, stop, index)
        rendered = full
    assert any(loss_mask), "every response has a token, so some token is learnt"
    if max_length is not None and len(input_ids) > max_length:
        raise ValueError(
            f"the conversation has {len(input_ids)} tokens and max_length is {max_length}; "
            "raise it or shorten the turns"
        )
    return input_ids, loss_mask


def check_messages(messages) -> None:
    """Refuse, with the reason, anything that is not a list of text messages ending with the assistant."""
    if not isinstance(messages, list) or not messages:
        raise ValueError(
            f"messages is {_shape(messages)}; a list of {{'role', 'content'}} is needed"
        )
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise ValueError(
                f"message {index} is {_shape(message)}; a {{'role', 'content'}} is needed"
            )
        if not all(isinstance(message.get(key), str) for key in ("role", "content")):
            found = {key: type(value).__name__ for key, value in message.items()}
            raise ValueError(f"message {index} holds {found}; role and content must both be text")
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise ValueError(f"no assistant turn among the roles {roles}; there is nothing to learn")
    if roles[-1] != "assistant":
        raise ValueError(
            f"the last message is from {roles[-1]!r}; drop it or let the target answer it"
        )


def _shape(value) -> str:
    return "an empty list" if value == [] else f"of type {type(value).__name__}"


def _texts(tokenizer, messages: list[dict], index: int, rendered: str) -> tuple[str, str]:
    """The text before the answer `index` and the text with it; each must extend the one before."""
    prompt = render_text(tokenizer, messages[:index], add_generation_prompt=True)
    full = render_text(tokenizer, messages[: index + 1])
    if not prompt.startswith(rendered) or not full.startswith(prompt):
        raise ValueError(
            f"the text before assistant message {index} is not a prefix of the text with it: the template re-renders "
            "history (a thinking mode?); turn that mode off, change the template, or keep single-turn conversations"
        )
    return prompt, full


def _encode(tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def _response_mask(ids: list[int], stop: frozenset[int], index: int) -> list[int]:
    """1 up to and including the first end-of-turn token, 0 for what the template adds after it."""
    end = next((p for p, token in enumerate(ids) if token in stop), None)
    if end == 0 or not ids:
        raise ValueError(
            f"assistant message {index} has zero response tokens; drop the conversation"
        )
    learnt = len(ids) if end is None else end + 1
    return [1] * learnt + [0] * (len(ids) - learnt)


def tokenize_conversations(
    rows: Iterable[Mapping], tokenizer, *, eos_token_ids: Iterable[int], max_length: int
) -> tuple[list[dict], list[SkippedRow]]:
    """Examples `{"id", "input_ids", "loss_mask"}` of all rows that render; the others come back with their reason.

    Zero usable rows are a ValueError. A row without an id is called by its place, "row-0" the first.
    """
    chat_template(tokenizer)
    examples, skipped, stop = [], [], frozenset(eos_token_ids)
    for number, row in enumerate(rows):
        name = f"row-{number}"
        try:
            if not isinstance(row, Mapping):
                raise ValueError(f"the row is {_shape(row)}; a mapping with 'messages' is needed")
            name = str(row.get("id") or name)
            ids, mask = render(
                tokenizer, row.get("messages"), eos_token_ids=stop, max_length=max_length
            )
            examples.append({"id": name, "input_ids": ids, "loss_mask": mask})
        except ValueError as error:
            skipped.append(SkippedRow(name, str(error)))
    if not examples:
        reasons = (
            "; ".join(f"{row.id}: {row.reason}" for row in skipped[:3]) or "there were no rows"
        )
        raise ValueError(
            f"none of {len(skipped)} conversations is usable ({reasons}); fix the data or the settings"
        )
    return examples, skipped


def usable_examples(
    rows: Iterable[Mapping], max_length: int | None
) -> tuple[list[dict], list[SkippedRow]]:
    """The already tokenised rows that can be learnt from; too long ones and all-zero masks come back with their reason."""
    examples, skipped = [], []
    for number, row in enumerate(rows):
        ids, mask = row.get("input_ids"), row.get("loss_mask")
        if mask is None or len(ids) != len(mask):
            reason = f"{len(ids)} input_ids and {'no' if mask is None else len(mask)} loss_mask values; one for each is needed"
        elif max_length is not None and len(ids) > max_length:
            reason = f"the conversation has {len(ids)} tokens and max_length is {max_length}; raise it or shorten the turns"
        elif not any(mask[2:]):
            reason = "the loss mask is zero from the third token on; there is nothing to learn"
        else:
            examples.append(dict(row))
            continue
        skipped.append(SkippedRow(str(row.get("id") or f"row-{number}"), reason))
    if not examples:
        reasons = (
            "; ".join(f"{row.id}: {row.reason}" for row in skipped[:3]) or "there were no rows"
        )
        raise ValueError(
            f"none of {len(skipped)} tokenised conversations is usable ({reasons}); fix the data"
        )
    return examples, skipped


def count_response_tokens(examples: Iterable[Mapping], vocab_size: int) -> torch.LongTensor:
    """How often each of V target tokens is learnt: the counts a draft vocabulary is chosen by."""
    counts = torch.zeros(vocab_size, dtype=torch.long)
    for example in examples:
        ids = torch.tensor(example["input_ids"])[
            torch.tensor(example["loss_mask"], dtype=torch.bool)
        ]
        if len(ids) and int(ids.max()) >= vocab_size:
            raise ValueError(
                f"example {example['id']!r} holds token {int(ids.max())}, but vocab_size is {vocab_size}; "
                "pass the target's config.vocab_size and the tokenizer that belongs to it"
            )
        counts += torch.bincount(ids, minlength=vocab_size)
    return counts


def show_mask(tokenizer, input_ids: list[int], loss_mask: list[int]) -> str:
    """The conversation as text for a terminal: green is learnt, dim is not."""
    if len(input_ids) != len(loss_mask):
        raise ValueError(
            f"{len(input_ids)} input_ids and {len(loss_mask)} mask values; both must be of one example"
        )
    parts, start = [], 0
    for end in range(1, len(input_ids) + 1):
        if end == len(input_ids) or loss_mask[end] != loss_mask[start]:
            text = tokenizer.decode(input_ids[start:end], skip_special_tokens=False)
            parts.append((LEARNT if loss_mask[start] else OTHER) + text + RESET)
            start = end
    return "".join(parts)
