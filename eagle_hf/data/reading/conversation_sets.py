"""Files of conversations as data sets, of which no more than a few rows are in memory.

Every row goes through the reader of `read_conversations`: a bad one is counted and left out, and
the others are used. The rows lie in a cache of `datasets` as Arrow, each column as JSON text. So
they come back exactly as they were, whatever they hold: Arrow's own types would fill the keys that
one row lacks with null, and refuse two rows whose tool calls differ.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eagle_hf.data.answers.store import TURNS
from eagle_hf.data.prompts.presets import PRESETS, check_answers_allowed, describe_preset
from eagle_hf.data.reading.conversation_rows import conversation_from_row
from eagle_hf.data.reading.row_values import read_id
from eagle_hf.data.reading.sources import (
    RowSource,
    check_found,
    describe_skipped,
    distinct_names,
    numbered,
    open_file,
    parsed_rows,
)
from eagle_hf.data.rows import Conversation, Example, SkippedLine

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

# A cache that an earlier way of writing has made is not read.
CACHE_FORMAT = 1
TOKENISED = ("input_ids", "loss_mask")
COLUMNS = tuple(Conversation.__annotations__) + tuple(Example.__annotations__)


def stream_conversation_files(files: Sequence[Path]) -> IterableDataset:
    """Read conversations as they come.

    Args:
        files: of any format that `open_file` knows, or folders of answers.

    Returns:
        Their rows, one file after the other. How many were skipped is printed when a file ends.
    """
    from datasets import IterableDataset  # slow

    settings = {"files": [str(file) for file in files], "names": distinct_names(files)}
    return IterableDataset.from_generator(_stream_files, gen_kwargs=settings)


def load_conversation_files(files: Sequence[Path]) -> Dataset:
    """Open conversations so that each can be asked for.

    Args:
        files: of any format that `open_file` knows, or folders of answers.

    Returns:
        Their rows, one file after the other. How many were skipped is printed.

    Raises:
        ValueError: a file holds no conversation.
    """
    names = distinct_names(files)
    columns: set[str] = set()
    for file, name in zip(files, names, strict=True):
        columns |= _columns_of(_file_source(str(file), name), str(file))
    settings = {"files": [str(file) for file in files], "names": names}
    return _text_dataset(_files_as_text, columns, settings, _fingerprint(files, names))


def load_hub_conversations(name: str, split: str, streaming: bool) -> Dataset | IterableDataset:
    """Open the conversations of a data set of the Hub.

    Args:
        name: of a preset, or owner/name.
        split: of a data set that is no preset.
        streaming: read the rows as they come, and keep nothing on disk.

    Returns:
        The data set as it is, where it has `messages` or is tokenised. Otherwise its rows are read
        as those of a file, and how many were skipped is printed.

    Raises:
        ValueError: a preset whose answers may not be used for training, or no row holds a
            conversation.
    """
    from datasets import IterableDataset, load_dataset  # slow

    path = name
    data_files = None
    if name in PRESETS:
        check_answers_allowed(name)
        print(describe_preset(name))
        path = PRESETS[name].dataset
        split = PRESETS[name].split
        data_files = PRESETS[name].data_file
    rows = load_dataset(path, split=split, streaming=streaming, data_files=data_files)
    columns = rows.column_names or []
    if "messages" in columns or TOKENISED[0] in columns:
        return rows
    if streaming:
        return IterableDataset.from_generator(_stream_hub, gen_kwargs={"rows": rows, "name": name})
    found = _columns_of(_hub_source(rows, name), name)
    return _text_dataset(_hub_as_text, found, {"rows": rows, "name": name})


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


def _file_source(file: str, name: str) -> RowSource:
    """The rows of a file under a name of its own."""
    return replace(open_file(Path(file)), name=name)


def _hub_source(rows: Iterable[Any], name: str) -> RowSource:
    """The rows of a data set of the Hub."""
    return RowSource(name, f"rows of {name}", numbered(rows))


def _usable(source: RowSource, called: str) -> Iterator[dict[str, Any]]:
    """The usable rows of a source; how many were skipped is printed behind the last."""
    skipped: list[SkippedLine] = []
    yield from parsed_rows(source, loaded_row, skipped)
    if skipped:
        _print_once(describe_skipped(called, skipped))


@lru_cache(maxsize=64)
def _print_once(line: str) -> None:
    """Print a line that was not printed lately: every epoch of a stream skips the same rows."""
    print(line)


def _stream_files(files: list[str], names: list[str]) -> Iterator[dict[str, Any]]:
    """The usable rows of several files."""
    for file, name in zip(files, names, strict=True):
        yield from _usable(_file_source(file, name), file)


def _stream_hub(rows: Iterable[Any], name: str) -> Iterator[dict[str, Any]]:
    """The usable rows of a data set of the Hub."""
    yield from _usable(_hub_source(rows, name), name)


def _columns_of(source: RowSource, called: str) -> set[str]:
    """The columns of the usable rows; ValueError where there is none."""
    columns: set[str] = set()
    skipped: list[SkippedLine] = []
    found = 0
    for row in parsed_rows(source, loaded_row, skipped):
        columns.update(row)
        found += 1
    check_found(found, skipped, source.unit, "a conversation", "see docs/data.md for the columns")
    if skipped:
        print(describe_skipped(called, skipped))
    return columns


def _text_dataset(
    generator: Callable[..., Iterator[dict[str, str]]],
    columns: set[str],
    settings: dict[str, Any],
    fingerprint: str | None = None,
) -> Dataset:
    """A data set of columns of JSON, which are decoded when they are asked for."""
    from datasets import Dataset, Features, Value  # slow

    rows = Dataset.from_generator(
        generator,
        features=Features({name: Value("large_string") for name in COLUMNS if name in columns}),
        gen_kwargs=settings,
        fingerprint=fingerprint,
    )
    return rows.with_transform(_from_text)


def _files_as_text(files: list[str], names: list[str]) -> Iterator[dict[str, str]]:
    """The usable rows of several files, each column as JSON."""
    for file, name in zip(files, names, strict=True):
        for row in parsed_rows(_file_source(file, name), loaded_row, []):
            yield _as_text(row)


def _hub_as_text(rows: Iterable[Any], name: str) -> Iterator[dict[str, str]]:
    """The usable rows of a data set of the Hub, each column as JSON."""
    for row in parsed_rows(_hub_source(rows, name), loaded_row, []):
        yield _as_text(row)


def _as_text(row: dict[str, Any]) -> dict[str, str]:
    """The columns of a row as JSON."""
    return {column: json.dumps(value) for column, value in row.items()}


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
        # A store that is being written keeps its newest turns in the file beside it.
        parts = sorted(file.glob(f"{TURNS}*")) if file.is_dir() else [file]
        for part in parts:
            status = part.stat()
            states.append([str(part.resolve()), name, status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()[:32]
