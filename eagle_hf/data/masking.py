"""Conversations become token ids and a mask of what is learnt, from render boundaries.

For every assistant turn the template is rendered twice: up to the generation prompt, and with the
answer. The difference is the response. Both parts are tokenized on their own, because that is the
boundary `generate` meets: the prompt's tokens are fixed before the first response token exists.

    ids    <user> hi <end> <assistant> | hello <end> | newline
    mask     0    0    0        0      |   1     1   |    0

`loss_mask[p]` speaks about `input_ids[p]` itself. Code that shifts labels must shift the mask by
as much.

S tokens of one conversation, V target vocabulary.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from eagle_hf.data.images import ConversationEncoder, ImageInputs, tokenizer_of
from eagle_hf.data.rows import (
    Example,
    Message,
    SkippedRow,
    check_messages,
    check_tokenised,
    describe_type,
    first_reasons,
)
from eagle_hf.data.template import chat_template, render_text

# A conversation's first two tokens are never learnt: no slot of a draft head predicts them.
FIRST_LEARNT = 2


def eos_token_ids(target: PreTrainedModel, tokenizer: Any) -> set[int]:
    """Collect every token that ends a turn.

    Args:
        target: a model; `generate` stops at its `generation_config.eos_token_id`.
        tokenizer: a tokenizer or processor, whose `eos_token_id` counts too. None: there is none.

    Returns:
        At least one token id.

    Raises:
        ValueError: neither the target nor the tokenizer names such a token.
    """
    generation_config = getattr(target, "generation_config", None)
    stop = getattr(generation_config, "eos_token_id", None)
    ids = set(stop) if isinstance(stop, (list, tuple)) else {stop}
    # Instruct models often name two: one ends a turn, the other a document.
    ids.add(getattr(tokenizer_of(tokenizer), "eos_token_id", None))
    ids.discard(None)
    if not ids:
        raise ValueError(
            "neither the target's generation_config nor the tokenizer names an end-of-turn token, "
            "so no response would ever end; set target.generation_config.eos_token_id or "
            "tokenizer.eos_token"
        )
    return {int(token) for token in ids}


def until_end_of_turn(ids: list[int], stop: Container[int]) -> list[int]:
    """The ids up to and including the first one in `stop`, all of them where there is none."""
    for position, token in enumerate(ids):
        if token in stop:
            return ids[: position + 1]
    return ids


class Rendered(NamedTuple):
    """One conversation in tokens.

    Attributes:
        input_ids: the tokens, [S].
        loss_mask: 1 on every response, up to and including its end-of-turn token, [S].
        image_inputs: what the processor prepares beside the tokens; None without images.
    """

    input_ids: list[int]
    loss_mask: list[int]
    image_inputs: ImageInputs | None


def render(
    tokenizer: Any,
    messages: list[Message],
    *,
    eos_token_ids: Iterable[int],
    max_length: int | None = None,
    images: Sequence[Any] = (),
) -> Rendered:
    """Tokenize one conversation and mark its responses.

    Args:
        tokenizer: the target's tokenizer, with a chat template; for images its processor.
        messages: a conversation that ends with the assistant.
        eos_token_ids: tokens that end a turn. A response without any of them is learnt whole.
        max_length: most tokens that are accepted. Default: no limit.
        images: what image parts without an image of their own stand for, in order.

    Raises:
        ValueError: the conversation does not end with the assistant, a response is empty, the
            template renders history anew, there are more than `max_length` tokens, or its images
            cannot be read.
    """
    check_messages(messages)
    stop = frozenset(eos_token_ids)
    encoder = ConversationEncoder(tokenizer, images)
    input_ids: list[int] = []
    loss_mask: list[int] = []
    rendered = ""
    begin = 0  # the first message that is not yet rendered
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt, full = _render_turn(tokenizer, messages, index, rendered)
        # Encoded apart: a token must not span the boundary that `generate` meets.
        asked = messages[begin:index]
        prompt_ids = encoder.encode_prompt(prompt[len(rendered) :], asked, len(input_ids))
        response_ids = encoder.encode(full[len(prompt) :])
        input_ids += prompt_ids + response_ids
        loss_mask += [0] * len(prompt_ids)
        loss_mask += _response_mask(response_ids, stop, index)
        rendered = full
        begin = index + 1
    assert any(loss_mask), "every response has a token, so some token is learnt"
    if max_length is not None and len(input_ids) > max_length:
        raise ValueError(_too_long(len(input_ids), max_length))
    return Rendered(input_ids, loss_mask, encoder.image_inputs(rendered, len(input_ids)))


def _render_turn(
    tokenizer: Any, messages: list[Message], index: int, rendered: str
) -> tuple[str, str]:
    """The text before assistant message `index`, and with it; each extends the one before it."""
    prompt = render_text(tokenizer, messages[:index], add_generation_prompt=True)
    full = render_text(tokenizer, messages[: index + 1])
    # Only then is the difference of two texts the response.
    if not prompt.startswith(rendered) or not full.startswith(prompt):
        raise ValueError(
            f"the text before assistant message {index} is not a prefix of the text with it: "
            "the template re-renders history (a thinking mode?); turn that mode off, change the "
            "template, or keep single-turn conversations"
        )
    return prompt, full


def _response_mask(ids: list[int], stop: frozenset[int], index: int) -> list[int]:
    """1 through the first end-of-turn token, 0 for what the template adds after it."""
    # An end-of-turn token alone is no response.
    if not ids or ids[0] in stop:
        raise ValueError(
            f"assistant message {index} has zero response tokens; drop the conversation"
        )
    learnt = len(until_end_of_turn(ids, stop))
    return [1] * learnt + [0] * (len(ids) - learnt)


def _too_long(length: int, max_length: int) -> str:
    return (
        f"the conversation has {length} tokens and max_length is {max_length}; "
        "raise it or shorten the turns"
    )


def tokenize_conversations(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: Any,
    *,
    eos_token_ids: Iterable[int],
    max_length: int | None,
) -> tuple[list[Example], list[SkippedRow]]:
    """Render and tokenize conversations; `prepare_examples` does the same with a target's limits.

    Args:
        rows: conversations (see `Conversation`). A row without an id is called by its number,
            "row-0" the first.
        tokenizer: the target's tokenizer, with a chat template; for images its processor.
        eos_token_ids: tokens that end a turn.
        max_length: longer conversations are skipped, in tokens. None: no limit.

    Returns:
        `(examples, skipped)`: the rows that render, in their order, and the others.

    Raises:
        ValueError: no row is usable, or the tokenizer has no chat template.
    """
    chat_template(tokenizer)  # refuses a tokenizer without one, before any row is blamed for it
    stop = frozenset(eos_token_ids)
    examples: list[Example] = []
    skipped: list[SkippedRow] = []
    for number, row in enumerate(rows):
        name = f"row-{number}"
        try:
            if not isinstance(row, Mapping):
                raise ValueError(
                    f"the row is {describe_type(row)}; a mapping with 'messages' is needed"
                )
            # From here on the row is blamed by its own name.
            name = str(row.get("id") or name)
            messages: Any = row.get("messages")
            images = row.get("images") or ()
            whole = render(
                tokenizer, messages, eos_token_ids=stop, max_length=max_length, images=images
            )
        except ValueError as error:
            skipped.append(SkippedRow(name, str(error)))
        else:
            examples.append(_example(name, whole))
    if not examples:
        reasons = first_reasons(skipped, "there were no rows")
        raise ValueError(
            f"none of {len(skipped)} conversations is usable ({reasons}); "
            "fix the data or the settings"
        )
    return examples, skipped


def _example(name: str, whole: Rendered) -> Example:
    """A rendered conversation as an example."""
    example: Example = {"id": name, "input_ids": whole.input_ids, "loss_mask": whole.loss_mask}
    if whole.image_inputs is not None:
        example["image_inputs"] = whole.image_inputs
    return example


def usable_examples(
    rows: Iterable[Mapping[str, Any]], max_length: int | None
) -> tuple[list[Example], list[SkippedRow]]:
    """Choose the already tokenized rows that can be learnt from.

    Args:
        rows: mappings with `input_ids` and `loss_mask`; other keys are kept.
        max_length: longer conversations are skipped, in tokens. None: no limit.

    Returns:
        `(examples, skipped)`: copies of the usable rows in their order, and the others. A row is
        skipped that is too long, has masks of another length, or has nothing to learn.

    Raises:
        ValueError: no row is usable.
    """
    examples: list[Any] = []
    skipped: list[SkippedRow] = []
    for number, row in enumerate(rows):
        reason = _unusable_reason(row, max_length)
        if reason is None:
            examples.append(dict(row))
        else:
            name = str(row.get("id") or f"row-{number}")
            skipped.append(SkippedRow(name, reason))
    if not examples:
        reasons = first_reasons(skipped, "there were no rows")
        raise ValueError(
            f"none of {len(skipped)} tokenised conversations is usable ({reasons}); fix the data"
        )
    return examples, skipped


def _unusable_reason(row: Mapping[str, Any], max_length: int | None) -> str | None:
    """Why a tokenized row cannot be learnt from; None where it can."""
    ids = row.get("input_ids")
    mask = row.get("loss_mask")
    mismatch = f"{_count(ids)} input_ids and {_count(mask)} loss_mask values"
    if ids is None or mask is None:
        return f"{mismatch}; one for each is needed"
    if len(ids) != len(mask):
        return f"{mismatch}; one for each is needed"
    if max_length is not None and len(ids) > max_length:
        return _too_long(len(ids), max_length)
    if not any(mask[FIRST_LEARNT:]):
        return "the loss mask is zero from the third token on; there is nothing to learn"
    return None


def _count(values: Sequence | None) -> str:
    return "no" if values is None else str(len(values))


def count_response_tokens(examples: Iterable[Example], vocab_size: int) -> torch.Tensor:
    """Count how often each target token is learnt; a draft vocabulary is chosen by these counts.

    Args:
        examples: tokenized conversations.
        vocab_size: V, the size of the target's vocabulary.

    Returns:
        int64 counts of shape [V].

    Raises:
        ValueError: an example is not tokenized, or a learnt token is not in the vocabulary.
    """
    counts = torch.zeros(vocab_size, dtype=torch.long)
    for number, example in enumerate(examples):
        check_tokenised(example, number)
        is_learnt = torch.as_tensor(example["loss_mask"], dtype=torch.bool)  # [S]
        ids = torch.as_tensor(example["input_ids"])[is_learnt]
        if len(ids) and int(ids.max()) >= vocab_size:
            # bincount would return more than V counts.
            raise ValueError(
                f"example {example['id']!r} holds token {int(ids.max())}, but vocab_size is "
                f"{vocab_size}; pass the target's config.vocab_size and the tokenizer that "
                "belongs to it"
            )
        counts += torch.bincount(ids, minlength=vocab_size)
    return counts
