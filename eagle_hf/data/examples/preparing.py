"""Rows of any kind become training examples: one call before every training and capture.

A target settles what rendering needs to know: how long a conversation may be, and which tokens
end a turn. `prepare_examples` asks the target and leaves the rows that cannot be used out.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from transformers import PreTrainedModel

from eagle_hf.data.examples.masking import (
    conversation_reader,
    eos_token_ids,
    stream_conversations,
)
from eagle_hf.data.examples.tokenised_rows import stream_usable
from eagle_hf.data.rows import Example, SkippedRow
from eagle_hf.data.templates.arguments import TemplateArguments
from eagle_hf.target import context_length, position_limit


def prepare_examples(
    target: PreTrainedModel,
    tokenizer: Any,
    rows: Iterable[Mapping[str, Any]],
    *,
    max_length: int | None = None,
    train_on: str = "all",
    template_arguments: TemplateArguments | None = None,
    num_proc: int | None = None,
    verbose: bool = False,
) -> tuple[list[Example], list[SkippedRow]]:
    """Turn conversations, or rows that are already tokenized, into training examples.

    The first row decides which of the two the rows are. Every row is read once, so `rows` may be
    a streaming dataset. All examples are kept in memory; `stream_examples` keeps none.

    Args:
        target: the model that wrote the conversations, with or without a PEFT adapter.
        tokenizer: the target's tokenizer, which needs a chat template, or its processor where
            conversations hold images. None will do for rows that are already tokenized.
        rows: mappings with `messages` (see `Conversation`), or with `input_ids` and `loss_mask`
            (see `Example`); a list, a `datasets.Dataset` or an `IterableDataset`.
        max_length: leave longer conversations out, in tokens. Default: the target's
            `max_position_embeddings`, and no limit where its config has none. Beyond a table of
            learned positions nothing is used, whatever this says.
        train_on: learn "all" answers of a conversation, or the one of its "last_turn".
        template_arguments: what the chat template is given beside the messages, such as
            `TemplateArguments({"enable_thinking": False})`; a row's own win. Conversations that
            `write_responses` wrote hold token ids, and are not rendered.
        num_proc: processes to tokenise in. Default: this one.
        verbose: print how many examples there are and how many rows are skipped.

    Returns:
        `(examples, skipped)`: the examples in the order of their rows, and what was left out with
        a reason each. A conversation is one example where its prompts go on from each other, else
        one for each answer.

    Raises:
        ValueError: no row is usable, conversations come without a tokenizer, the tokenizer has
            no chat template, or nothing names an end-of-turn token.
    """
    skipped: list[SkippedRow] = []
    stream = stream_examples(
        target,
        tokenizer,
        rows,
        skipped=skipped,
        max_length=max_length,
        train_on=train_on,
        template_arguments=template_arguments,
        num_proc=num_proc,
    )
    examples = list(stream)
    if verbose:
        print(_summary(examples, skipped))
    return examples, skipped


def stream_examples(
    target: PreTrainedModel,
    tokenizer: Any,
    rows: Iterable[Mapping[str, Any]],
    *,
    skipped: list[SkippedRow],
    max_length: int | None = None,
    train_on: str = "all",
    template_arguments: TemplateArguments | None = None,
    num_proc: int | None = None,
) -> Iterator[Example]:
    """As `prepare_examples`, one example after the other, for more rows than fit into memory.

    Args:
        target: as there, and so are the others.
        tokenizer: the target's.
        rows: each is read when it is needed.
        skipped: collects what is left out.
        max_length: in tokens.
        train_on: "all" or "last_turn".
        template_arguments: of the chat template.
        num_proc: processes to tokenise in.

    Returns:
        The examples in the order of their rows, each as soon as it is ready.

    Raises:
        ValueError: as there; that no row is usable shows behind the last one.
    """
    # 1) What does the target say?
    limit = length_limit(target, max_length)
    # 2) Conversations, or tokens already?
    rows_are_tokenized, rows = _look_at_first(rows)
    if rows_are_tokenized:
        return stream_usable(rows, limit, skipped)
    if tokenizer is None:
        raise ValueError("the rows are conversations and tokenizer is None; pass the target's own")
    reader = conversation_reader(
        tokenizer,
        eos_token_ids=eos_token_ids(target, tokenizer),
        max_length=limit,
        train_on=train_on,
        template_arguments=template_arguments,
    )
    return stream_conversations(rows, reader, skipped, num_proc)


def length_limit(target: PreTrainedModel, max_length: int | None) -> int | None:
    """How long a conversation may be that the target is to read.

    Args:
        target: a model, with or without wrappers.
        max_length: what was asked for; None for what the target's config says.

    Returns:
        Tokens, never more than a table of learned positions holds; None for no limit.
    """
    limit = max_length or context_length(target)
    if limit is None:
        return None
    return min(limit, position_limit(target))


def _look_at_first(
    rows: Iterable[Mapping[str, Any]],
) -> tuple[bool, Iterable[Mapping[str, Any]]]:
    """Whether the first row is already tokenized, and all rows with the first one put back."""
    remaining = iter(rows)
    try:
        first = next(remaining)
    except StopIteration:
        return False, []
    is_tokenized = isinstance(first, Mapping) and "input_ids" in first
    return is_tokenized, chain([first], remaining)


def _summary(examples: list[Example], skipped: list[SkippedRow]) -> str:
    text = f"{len(examples)} examples, {len(skipped)} skipped"
    if skipped:
        text += f", the first: {skipped[0].reason}"
    return text
