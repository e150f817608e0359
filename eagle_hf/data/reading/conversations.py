"""Conversations from a file or folder of answers, or from any dataset."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eagle_hf.data.answers import CONVERSATIONS, TURNS
from eagle_hf.data.prompts.presets import PRESETS, check_answers_allowed
from eagle_hf.data.reading.conversation_rows import (
    ANSWER_COLUMNS,
    MESSAGE_COLUMNS,
    PROMPT_COLUMNS,
    conversation_from_row,
)
from eagle_hf.data.reading.conversation_sets import (
    load_conversation_files,
    load_hub_conversations,
    stream_conversation_files,
)
from eagle_hf.data.reading.remote_files import is_url, local_copy
from eagle_hf.data.reading.sources import FILE_READERS, check_found, open_rows, parsed_rows
from eagle_hf.data.rows import Conversation, SkippedLine

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


def read_conversations(
    name: str | Path,
    *,
    config: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    streaming: bool = True,
) -> tuple[list[Conversation], list[SkippedLine]]:
    """Read finished conversations, in whichever columns they stand.

    A bad row never stops the reading. The answers are those of another model than the target,
    unless the target wrote them: a draft head learns best from the target's own, so prefer
    `load_prompts` and `write_responses`.

    Args:
        name: as for `load_prompts`: a file, a folder that `write_responses` wrote, a preset, or a
            data set of the Hub.
        config: of a data set of the Hub.
        split: of a data set of the Hub. Default: the preset's, or "train".
        limit: stop after this many conversations. Default: read all.
        streaming: read data sets of the Hub as they come, and keep nothing on disk.

    Returns:
        `(conversations, skipped)`: the conversations in order, and every row that gave none.

    Raises:
        ValueError: the name stands for nothing, no row holds a finished conversation, or the
            answers of a preset may not be used for training.
    """
    if str(name) in PRESETS:
        check_answers_allowed(str(name))
    source = open_rows(name, config=config, split=split, streaming=streaming)
    skipped: list[SkippedLine] = []
    found = list(islice(parsed_rows(source, conversation_from_row, skipped), limit))
    advice = (
        f"needed is one of {MESSAGE_COLUMNS}, or one of {PROMPT_COLUMNS} with one of "
        f"{ANSWER_COLUMNS}"
    )
    check_found(len(found), skipped, source.unit, "a finished conversation", advice)
    return found, skipped


def load_conversations(
    name: str | Path | Sequence[str | Path], split: str = "train", streaming: bool = False
) -> Dataset | IterableDataset:
    """Load conversations as a dataset. No more than a few rows of files are in memory.

    A bad row of a file is skipped, by the rules of `read_conversations`, and counted. Rows that are
    already tokenised (see `Example`) stay as they are. The rows of a data set on the Hub that has
    `messages` come as they are there; those of others are read as those of a file.

    Args:
        name: a file (.jsonl, .json, .parquet, .csv), a folder that `write_responses` or
            `write_served_responses` wrote, a preset, a dataset on the Hub, or the URL of a file
            that fsspec opens. Several names: one after the other.
        split: of a dataset on the Hub that is no preset.
        streaming: read the rows as they come, and keep nothing on disk.

    Returns:
        A `datasets.Dataset`, or with streaming a `datasets.IterableDataset`. See `Conversation`
        for its rows; a column that a row lacks is missing or None.

    Raises:
        ValueError: no name, a file that does not exist or holds no conversation, a preset whose
            answers may not be used for training, or files beside data sets of the Hub.
    """
    names = [name] if isinstance(name, str | Path) else list(name)
    if not names:
        raise ValueError(
            "no dataset was named; give a JSON-lines file, its folder, or a hub dataset"
        )
    files = [path for path in map(_local_path, names) if path is not None]
    if len(files) == len(names):
        return stream_conversation_files(files) if streaming else load_conversation_files(files)
    if files:
        raise ValueError(
            f"{', '.join(map(str, files))} and data sets of the Hub were named together; "
            "load them one by one"
        )
    from datasets import concatenate_datasets  # slow

    parts: list[Any] = [load_hub_conversations(str(one), split, streaming) for one in names]
    return parts[0] if len(parts) == 1 else concatenate_datasets(parts)


def _local_path(name: str | Path) -> Path | None:
    """The file or folder that a name stands for; None where it is of the Hub."""
    path = local_copy(str(name)) if is_url(name) else Path(name)
    file = path / CONVERSATIONS if path.is_dir() else path
    if file.is_file():
        return file
    if (path / TURNS).is_file():
        return path
    # A typing error in a file name must not become a request to the Hub.
    is_local = path.is_dir() or path.suffix in FILE_READERS or path.is_absolute()
    if is_local:
        raise ValueError(
            f"{file} does not exist; give a JSON-lines file, a folder with {CONVERSATIONS}, "
            "or a hub dataset"
        )
    return None
