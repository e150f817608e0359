"""Conversations become token ids and a mask of what is learnt.

Each conversation is read as turns (see turns.py), and what the target said in them is learnt:

    ids    <user> hi <end> <assistant> | hello <end> | newline
    mask     0    0    0        0      |   1     1   |    0

`loss_mask[p]` speaks about `input_ids[p]` itself. Code that shifts labels must shift the mask by
as much.

S tokens of one conversation, V target vocabulary.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, ProcessorMixin

from eagle_hf.data.examples.images import tokenizer_of
from eagle_hf.data.examples.parallel import read_rows
from eagle_hf.data.examples.reader import ConversationReader, check_train_on
from eagle_hf.data.rows import (
    Example,
    SkippedRow,
    check_tokenised,
    first_reasons,
)
from eagle_hf.data.templates.arguments import TemplateArguments
from eagle_hf.data.templates.template import chat_template
from eagle_hf.data.templates.whole_text import WholeTokenizer


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
    return _end_of_turn_ids(getattr(target, "generation_config", None), tokenizer)


def stored_eos_token_ids(folder: str, tokenizer: Any) -> set[int]:
    """As `eos_token_ids`, for a target that is not opened.

    Args:
        folder: of the target, or its name on the Hub.
        tokenizer: as there.

    Returns:
        At least one token id.

    Raises:
        ValueError: as there.
    """
    try:
        generation_config = GenerationConfig.from_pretrained(folder)
    except OSError:  # many targets have none
        generation_config = None
    return _end_of_turn_ids(generation_config, tokenizer)


def _end_of_turn_ids(generation_config: GenerationConfig | None, tokenizer: Any) -> set[int]:
    """The tokens that end a turn; ValueError where nothing names one."""
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
    num_proc: int | None = None,
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
        num_proc: processes to tokenise in. Default: this one.

    Returns:
        `(examples, skipped)`: the examples in the order of their rows, and what is left out.

    Raises:
        ValueError: no row is usable, the tokenizer has no chat template, or it does not read the
            template arguments.
    """
    reader = conversation_reader(
        tokenizer,
        eos_token_ids=eos_token_ids,
        max_length=max_length,
        train_on=train_on,
        template_arguments=template_arguments,
    )
    skipped: list[SkippedRow] = []
    examples = list(stream_conversations(rows, reader, skipped, num_proc))
    return examples, skipped


def conversation_reader(
    tokenizer: Any,
    *,
    eos_token_ids: Iterable[int],
    max_length: int | None,
    train_on: str,
    template_arguments: TemplateArguments | None,
) -> ConversationReader:
    """Make what reads conversations, before any row is blamed for its settings.

    Args:
        tokenizer: as of `tokenize_conversations`, and so are the others.
        eos_token_ids: tokens that end a turn.
        max_length: in tokens; None for no limit.
        train_on: "all" or "last_turn".
        template_arguments: of every row.

    Raises:
        ValueError: as there.
    """
    arguments = template_arguments or TemplateArguments()
    arguments.check_read_by(chat_template(tokenizer))
    check_train_on(train_on)
    return ConversationReader(
        tokenizer=WholeTokenizer(tokenizer),
        stop=frozenset(eos_token_ids),
        max_length=max_length,
        train_on=train_on,
        arguments=arguments,
    )


def stream_conversations(
    rows: Iterable[Mapping[str, Any]],
    reader: ConversationReader,
    skipped: list[SkippedRow],
    num_proc: int | None,
) -> Iterator[Example]:
    """Turn conversations into examples while they are read.

    Args:
        rows: conversations.
        reader: reads them.
        skipped: collects what is left out.
        num_proc: processes to tokenise in; None for this one.

    Returns:
        The examples in the order of their rows, each as soon as it is ready.

    Raises:
        ValueError: `num_proc` cannot be; or, behind the last row, no row is usable.
    """
    check_num_proc(num_proc, reader.tokenizer.processor)
    return _examples_of(rows, reader, skipped, num_proc)


def _examples_of(
    rows: Iterable[Mapping[str, Any]],
    reader: ConversationReader,
    skipped: list[SkippedRow],
    num_proc: int | None,
) -> Iterator[Example]:
    """The examples; what is left out goes to `skipped`."""
    is_empty = True
    for outcome in read_rows(reader, rows, num_proc):
        skipped += outcome.skipped
        for example in outcome.examples:
            is_empty = False
            yield example
    if is_empty:
        reasons = first_reasons(skipped, "there were no rows")
        raise ValueError(
            f"none of {len(skipped)} conversations is usable ({reasons}); "
            "fix the data or the settings"
        )


def check_num_proc(num_proc: int | None, processor: Any) -> None:
    """Refuse a number of processes that cannot be, or cannot help."""
    if num_proc is None:
        return
    if num_proc < 1:
        raise ValueError(f"num_proc is {num_proc}; give 1 or more processes, or None for this one")
    if num_proc > 1 and isinstance(processor, ProcessorMixin):
        raise ValueError(
            f"num_proc is {num_proc} and {type(processor).__name__} prepares images, which would "
            "be copied between the processes; leave num_proc out, or pass the tokenizer for text"
        )


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
