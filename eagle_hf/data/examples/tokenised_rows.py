"""Rows that are tokenised already: those that a draft head can learn from."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from eagle_hf.data.examples.reader import too_long
from eagle_hf.data.rows import Example, SkippedRow, first_reasons

# A conversation's first two tokens are never learnt: no slot of a draft head predicts them.
FIRST_LEARNT = 2


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
    skipped: list[SkippedRow] = []
    examples = list(stream_usable(rows, max_length, skipped))
    return examples, skipped


def stream_usable(
    rows: Iterable[Mapping[str, Any]], max_length: int | None, skipped: list[SkippedRow]
) -> Iterator[Any]:
    """Choose the already tokenized rows that can be learnt from, while they are read.

    Args:
        rows: as of `usable_examples`.
        max_length: as there.
        skipped: collects the others.

    Yields:
        A copy of each usable row.

    Raises:
        ValueError: behind the last row, no row is usable.
    """
    is_empty = True
    for number, row in enumerate(rows):
        reason = unusable_reason(row, max_length)
        if reason is None:
            is_empty = False
            yield dict(row)
        else:
            name = str(row.get("id") or f"row-{number}")
            skipped.append(SkippedRow(name, reason))
    if is_empty:
        reasons = first_reasons(skipped, "there were no rows")
        raise ValueError(
            f"none of {len(skipped)} tokenised conversations is usable ({reasons}); fix the data"
        )


def unusable_reason(row: Mapping[str, Any], max_length: int | None) -> str | None:
    """Find out why a tokenized row cannot be learnt from.

    Args:
        row: with `input_ids` and `loss_mask`.
        max_length: in tokens; None for no limit.

    Returns:
        The reason; None where it can.
    """
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
