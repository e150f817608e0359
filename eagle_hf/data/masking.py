"""Conversations become token ids and a mask of what is learnt.

Each conversation is read as turns (see turns.py), and what the target said in them is learnt:

    ids    <user> hi <end> <assistant> | hello <end> | newline
    mask     0    0    0        0      |   1     1   |    0

`loss_mask[p]` speaks about `input_ids[p]` itself. Code that shifts labels must shift the mask by
as much.

S tokens of one conversation, V target vocabulary.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from eagle_hf.data.images import tokenizer_of
from eagle_hf.data.reader import ConversationReader, check_train_on, too_long
from eagle_hf.data.rows import (
    Example,
    SkippedRow,
    check_tokenised,
    describe_type,
    first_reasons,
)
from eagle_hf.data.template import chat_template
from eagle_hf.data.template_arguments import TemplateArguments
from eagle_hf.data.whole_text import WholeTokenizer

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
    return end_of_turn_ids(getattr(target, "generation_config", None), tokenizer)


def end_of_turn_ids(generation_config: GenerationConfig | None, tokenizer: Any) -> set[int]:
    """As `eos_token_ids`, for a target that is not opened.

    Args:
        generation_config: of the target; None where it has none.
        tokenizer: as there.

    Returns:
        At least one token id.

    Raises:
        ValueError: as there.
    """
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


def tokenize_conversations(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: Any,
    *,
    eos_token_ids: Iterable[int],
    max_length: int | None,
    train_on: str = "all",
    template_arguments: TemplateArguments | None = None,
) -> tuple[list[Example], list[SkippedRow]]:
    """Turn conversations into examples; `prepare_examples` does so with a target's limits.

    Args:
        rows: conversations (see `Conversation`). A row without an id is called by its number,
            "row-0" the first.
        tokenizer: the target's tokenizer, with a chat template; for images its processor.
        eos_token_ids: tokens that end a turn.
        max_length: longer examples are skipped, in tokens. None: no limit.
        train_on: "all" answers, or the one of the "last_turn".
        template_arguments: of every row; a row's own win. Default: none, and today's date.

    Returns:
        `(examples, skipped)`: the examples in the order of their rows, and what is left out.

    Raises:
        ValueError: no row is usable, the tokenizer has no chat template, or it does not read the
            template arguments.
    """
    # Before any row is blamed: is there a template, and does it read the variables?
    template = chat_template(tokenizer)
    arguments = template_arguments or TemplateArguments()
    arguments.check_read_by(template)
    check_train_on(train_on)
    reader = ConversationReader(
        tokenizer=WholeTokenizer(tokenizer),
        stop=frozenset(eos_token_ids),
        max_length=max_length,
        train_on=train_on,
        arguments=arguments,
    )
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
            of_row, left_out = reader.examples_of(name, row)
        except ValueError as error:
            skipped.append(SkippedRow(name, str(error)))
        else:
            examples += of_row
            skipped += left_out
    if not examples:
        reasons = first_reasons(skipped, "there were no rows")
        raise ValueError(
            f"none of {len(skipped)} conversations is usable ({reasons}); "
            "fix the data or the settings"
        )
    return examples, skipped


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
        return too_long(len(ids), max_length)
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
