"""Conversations from a file or folder of answers, or from any dataset."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eagle_hf.data.answers import CONVERSATIONS, TURNS, stored_conversations
from eagle_hf.data.conversation_rows import (
    ANSWER_COLUMNS,
    MESSAGE_COLUMNS,
    PROMPT_COLUMNS,
    conversation_from_row,
)
from eagle_hf.data.presets import PRESETS, check_answers_allowed
from eagle_hf.data.rows import Conversation, SkippedLine
from eagle_hf.data.sources import check_found, open_rows, parsed_rows

if TYPE_CHECKING:
    from datasets import Dataset, Features, IterableDataset

TEXT_COLUMNS = ("id", "tools", "chat_template_kwargs", "source", "category")
TEXT_FIELDS = ("finish_reason", "prompt_ids_from", "response_ids_from", "message_sha256")
ID_FIELDS = ("prompt_ids", "response_ids")


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
    check_found(found, skipped, source.unit, "a finished conversation", advice)
    return found, skipped


def load_conversations(
    name: str | Path | Sequence[str | Path], split: str = "train", streaming: bool = False
) -> Dataset | IterableDataset:
    """Load conversations as a dataset.

    Args:
        name: a JSON-lines file, a folder that `write_responses` or `write_served_responses`
            wrote, or a dataset on the Hub. Several names: one after the other.
        split: of a dataset on the Hub.
        streaming: read the rows as they come, and keep nothing on disk.

    Returns:
        A `datasets.Dataset`, or with streaming a `datasets.IterableDataset`. See `Conversation`
        for its rows.

    Raises:
        ValueError: no name, or a file that does not exist.
    """
    from datasets import Dataset, IterableDataset, load_dataset  # slow

    if not isinstance(name, str | Path):
        if not name:
            raise ValueError(
                "no dataset was named; give a JSON-lines file, its folder, or a hub dataset"
            )
        return _concatenated([load_conversations(one, split, streaming) for one in name])
    path = Path(name)
    file = path / CONVERSATIONS if path.is_dir() else path
    if file.is_file():
        return load_dataset(
            "json",
            data_files=str(file),
            split="train",
            streaming=streaming,
            features=_columns_of(file),
        )
    if (path / TURNS).is_file():
        if streaming:
            return IterableDataset.from_generator(stored_conversations, gen_kwargs={"folder": path})
        # Not `from_generator`, which would find an older state of the folder in its cache.
        return Dataset.from_list([dict(row) for row in stored_conversations(path)])
    # A typing error in a file name must not become a request to the Hub.
    is_local = path.is_dir() or path.suffix in (".jsonl", ".json") or path.is_absolute()
    if is_local:
        raise ValueError(
            f"{file} does not exist; give a JSON-lines file, a folder with {CONVERSATIONS}, "
            "or a hub dataset"
        )
    return load_dataset(str(name), split=split, streaming=streaming)


def _concatenated(parts: list[Any]) -> Any:
    """Datasets one after the other, their messages in one form."""
    from datasets import Json, List, concatenate_datasets

    forms = {str((part.features or {}).get("messages")) for part in parts}
    if len(forms) > 1:
        parts = [part.cast_column("messages", List(Json())) for part in parts]
    return concatenate_datasets(parts)


def _columns_of(file: Path) -> Features | None:
    """The columns of a file with answers by token; None for files of text alone.

    `datasets` takes the columns of the first rows for those of all. So it would stop where the
    first answer with reasoning or a tool call comes late.
    """
    from datasets import Features, Json, List, Value

    row = _first_row_with_tokens(file)
    if row is None:
        return None
    ids = {name: List(Value("int64")) for name in ID_FIELDS}
    texts = {name: Value("string") for name in TEXT_FIELDS}
    # Columns that somebody added may hold anything.
    columns: dict[str, Any] = {name: Json() for name in row}
    columns |= {name: Value("string") for name in TEXT_COLUMNS}
    columns |= {
        "format": Value("int64"),
        "messages": List(Json()),
        "served_turns": List({**ids, **texts}),
    }
    return Features(columns)


def _first_row_with_tokens(file: Path) -> dict[str, Any] | None:
    """The first row of a JSON-lines file that has `served_turns`; None where none has."""
    with file.open("rb") as lines:
        for line in lines:
            if b'"served_turns"' not in line:
                continue
            try:
                row = json.loads(line)
            except ValueError:  # `datasets` names the line
                return None
            if isinstance(row, dict) and row.get("served_turns"):
                return row
    return None
