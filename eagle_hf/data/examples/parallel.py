"""Rows read in several processes, in order, and never more of them in memory than are at work.

Rendering is Python and holds the interpreter's lock, so threads would gain little.
"""

import multiprocessing
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

from eagle_hf.data.examples.reader import ConversationReader
from eagle_hf.data.rows import Example, SkippedRow, describe_type

ROWS_AT_ONCE = 64  # so many go to a process together
WAITING = 2  # so many such chunks for each process


class RowOutcome(NamedTuple):
    """What a row became.

    Attributes:
        examples: of the row.
        skipped: the row, or those of its answers that are left out.
    """

    examples: list[Example]
    skipped: list[SkippedRow]


def read_row(reader: ConversationReader, number: int, row: Any) -> RowOutcome:
    """Read one row; whatever is wrong with it is its own.

    Args:
        reader: makes examples.
        number: of the row, which a row without an id is called by.
        row: anything; a mapping is needed.
    """
    name = f"row-{number}"
    if not isinstance(row, Mapping):
        reason = f"the row is {describe_type(row)}; a mapping with 'messages' is needed"
        return RowOutcome([], [SkippedRow(name, reason)])
    name = str(row.get("id") or name)
    try:
        examples, left_out = reader.examples_of(name, row)
    except ValueError as error:
        return RowOutcome([], [SkippedRow(name, str(error))])
    return RowOutcome(examples, left_out)


def read_rows(
    reader: ConversationReader, rows: Iterable[Any], num_proc: int | None
) -> Iterator[RowOutcome]:
    """Read rows in their order.

    Args:
        reader: makes examples.
        rows: read as they are needed.
        num_proc: processes to read in; None for this one.

    Yields:
        What each row became.
    """
    if num_proc is None or num_proc == 1:
        for number, row in enumerate(rows):
            yield read_row(reader, number, row)
        return
    # A forked process has the tokenizer already. Where there is no fork it is pickled once.
    has_fork = "fork" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if has_fork else "spawn")
    with ProcessPoolExecutor(num_proc, context, _start_worker, (reader,)) as pool:
        waiting: deque[Future[list[RowOutcome]]] = deque()
        for chunk in _chunks(enumerate(rows)):
            waiting.append(pool.submit(_read_chunk, chunk))
            if len(waiting) > WAITING * num_proc:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _chunks(rows: Iterator[tuple[int, Any]]) -> Iterator[list[tuple[int, Any]]]:
    """The rows in lists of a few."""
    chunk = list(islice(rows, ROWS_AT_ONCE))
    while chunk:
        yield chunk
        chunk = list(islice(rows, ROWS_AT_ONCE))


class _Worker:
    """What a process of the pool reads with: it is made once in each."""

    reader: ConversationReader | None = None


def _start_worker(reader: ConversationReader) -> None:
    """Keep the reader for all chunks; each process is one thread of work already."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _Worker.reader = reader


def _read_chunk(chunk: list[tuple[int, Any]]) -> list[RowOutcome]:
    """Read the rows of a chunk in a process of the pool."""
    reader = _Worker.reader
    assert reader is not None, "the pool starts its workers"
    return [read_row(reader, number, row) for number, row in chunk]
