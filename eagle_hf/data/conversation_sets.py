"""Files of conversations as data sets, of which no more than a few rows are in memory.

Every row goes through the reader of `read_conversations`: a bad one is counted and left out, and
the others are used. The rows lie in a cache of `datasets` as Arrow, each column as JSON text. So
they come back exactly as they were, whatever they hold: Arrow's own types would fill the keys that
one row lacks with null, and refuse two rows whose tool calls differ.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eagle_hf.data.conversation_rows import conversation_from_row
from eagle_hf.data.row_values import read_id
from eagle_hf.data.rows import Conversation, Example, SkippedLine
from eagle_hf.data.sources import (
    check_found,
    describe_skipped,
    distinct_names,
    open_file,
    parsed_rows,
)

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

# A cache that an earlier way of writing has made is not read.
CACHE_FORMAT = 1
TOKENISED = ("input_ids", "loss_mask")
COLUMNS = tuple(Conversation.__annotations__) + tuple(Example.__annotations__)


def stream_conversation_files(files: Sequence[Path]) -> IterableDataset:
    """Read conversations as they come.

    Args:
        files: of any format that `open_file` knows.

    Returns:
        Their rows, one file after the other. How many were skipped is printed when a file ends.
    """
    from datasets import IterableDataset  # slow

    settings = {"files": [str(file) for file in files], "names": distinct_names(files)}
    return IterableDataset.from_generator(_stream, gen_kwargs=settings)


def load_conversation_files(files: Sequence[Path]) -> Dataset:
    """Open conversations so that each can be asked for.

    Args:
        files: of any format that `open_file` knows.

    Returns:
        Their rows, one file after the other. How many were skipped is printed.

    Raises:
        ValueError: a file holds no conversation.
    """
    from datasets import Dataset, Features, Value  # slow

    names = distinct_names(files)
    columns: set[str] = set()
    for file, name in zip(files, names, strict=True):
        columns.update(_columns_of(file, name))
    features = Features({column: Value("large_string") for column in COLUMNS if column in columns})
    rows = Dataset.from_generator(
        _as_text,
        features=features,
        gen_kwargs={"files": [str(file) for file in files], "names": names},
        fingerprint=_fingerprint(files, names),
    )
    return rows.with_transform(_from_text)


def loaded_row(row: object, *, default_id: str, source: str) -> dict[str, Any]:
    """Read a conversation, or one that is already tokenised.

    Args:
        row: as it stands in a file.
        default_id: for a row without an id.
        source: for a row without a source.

    Returns:
        Its columns that this package reads.

    Raises:
        ValueError: it is none; the text says why.
    """
    loaded: Any
    if isinstance(row, Mapping) and all(row.get(column) is not None for column in TOKENISED):
        loaded = dict(row)
        loaded["id"] = read_id(row, default_id)
    else:
        loaded = dict(conversation_from_row(row, default_id=default_id, source=source))
    kept = {column: loaded[column] for column in COLUMNS if loaded.get(column) is not None}
    try:
        json.dumps(kept)
    except TypeError as error:
        raise ValueError(f"the row holds what JSON cannot ({error}); write text instead") from error
    return kept


def _rows(file: str, name: str, skipped: list[SkippedLine]) -> Iterator[dict[str, Any]]:
    """The usable rows of a file."""
    source = replace(open_file(Path(file)), name=name)
    return parsed_rows(source, loaded_row, skipped)


def _stream(files: list[str], names: list[str]) -> Iterator[dict[str, Any]]:
    """The usable rows of several files."""
    for file, name in zip(files, names, strict=True):
        skipped: list[SkippedLine] = []
        yield from _rows(file, name, skipped)
        if skipped:
            print(describe_skipped(file, skipped))


def _columns_of(file: Path, name: str) -> set[str]:
    """The columns of a file's usable rows; what is skipped is printed."""
    columns: set[str] = set()
    skipped: list[SkippedLine] = []
    found = 0
    for row in _rows(str(file), name, skipped):
        columns.update(row)
        found += 1
    check_found(found, skipped, f"lines of {file.name}", "a conversation", "see the data page")
    if skipped:
        print(describe_skipped(file, skipped))
    return columns


def _as_text(files: list[str], names: list[str]) -> Iterator[dict[str, str]]:
    """The usable rows of several files, each column as JSON."""
    for file, name in zip(files, names, strict=True):
        for row in _rows(file, name, []):
            yield {column: json.dumps(value) for column, value in row.items()}


def _from_text(columns: dict[str, list[str | None]]) -> dict[str, list[Any]]:
    """The values of columns of JSON; a column that a row lacks is None."""
    values: dict[str, list[Any]] = {}
    for column, texts in columns.items():
        values[column] = [None if text is None else json.loads(text) for text in texts]
    return values


def _fingerprint(files: Sequence[Path], names: Sequence[str]) -> str:
    """A name for the rows in the cache: another one where a file has changed."""
    states: list[Any] = [CACHE_FORMAT]
    for file, name in zip(files, names, strict=True):
        status = file.stat()
        states.append([str(file.resolve()), name, status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()[:32]
