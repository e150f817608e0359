"""User turns, bundled or from files and datasets; `magpie.py` samples some from the target itself.

Only user turns are kept (see `Prompt`): the answers must be the target's own. A conversation of
several turns is replayed: its user turns are asked again, one after the other, and the target's
answers stand between them.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from eagle_hf.data.reading.prompt_rows import COLUMNS, prompt_from_row
from eagle_hf.data.reading.sources import (
    RowSource,
    check_found,
    describe_skipped,
    distinct_names,
    numbered,
    open_file,
    open_rows,
    parsed_rows,
)
from eagle_hf.data.rows import Prompt, SkippedLine

T = TypeVar("T")


def load_prompts(
    name: str | Path,
    *,
    config: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    streaming: bool = True,
) -> tuple[list[Prompt], list[SkippedLine]]:
    """Read the prompts of a file, a bundled set, a preset or a data set of the Hub.

    A bad row never stops the reading. The licence of a preset is printed before it is opened.

    Args:
        name: of a .jsonl, .json, .txt, .parquet or .csv file, of a bundled set, of a preset such
            as "ultrachat", or of a data set of the Hub, owner/name.
        config: of a data set of the Hub.
        split: of a data set of the Hub. Default: the preset's, or "train".
        limit: stop after this many prompts. Default: read all.
        streaming: read data sets of the Hub as they come, and keep nothing on disk.

    Returns:
        `(prompts, skipped)`: the prompts in order, and every row that gave none.

    Raises:
        ValueError: the name stands for nothing, or no row holds a prompt.
    """
    source = open_rows(name, config=config, split=split, streaming=streaming)
    return _collect(source, limit)


def stream_prompts(
    name: str | Path,
    skipped: list[SkippedLine],
    *,
    config: str | None = None,
    split: str | None = None,
    streaming: bool = True,
) -> Iterator[Prompt]:
    """Read prompts one by one, for sources of which not all prompts fit in memory.

    Args:
        name: as for `load_prompts`.
        skipped: collects the rows that give no prompt, while they are read.
        config: of a data set of the Hub.
        split: of a data set of the Hub. Default: the preset's, or "train".
        streaming: read data sets of the Hub as they come, and keep nothing on disk.

    Returns:
        The prompts in order. They can be read once.

    Raises:
        ValueError: the name stands for nothing.
    """
    source = open_rows(name, config=config, split=split, streaming=streaming)
    return parsed_rows(source, prompt_from_row, skipped)


def read_prompts(path: str | Path) -> tuple[list[Prompt], list[SkippedLine]]:
    """Read the prompts of a file. A bad line never stops the reading.

    Args:
        path: a JSON-lines file whose rows hold `turns`, `messages`, `conversations` (from/value),
            `prompt`, `instruction` with an optional `input`, or `text`. A .json, .txt, .parquet or
            .csv file is read as well.

    Returns:
        `(prompts, skipped)`: the prompts in order, and every line that gave none.

    Raises:
        ValueError: no line holds a prompt, or the file cannot be read.
    """
    return _collect(open_file(Path(path)))


def prompts_from_dataset(
    dataset: Iterable[Mapping[str, Any]], source: str = "dataset"
) -> tuple[list[Prompt], list[SkippedLine]]:
    """Read the prompts of a dataset, in the columns that `read_prompts` knows.

    Args:
        dataset: any iterable of rows: a `datasets.Dataset`, an `IterableDataset`, a list.
        source: of rows that do not name theirs; it begins their ids too.

    Returns:
        `(prompts, skipped)`: the prompts in order, and every row that gave none.

    Raises:
        ValueError: no row holds a prompt, or a mapping of splits arrives instead of one split.
    """
    # `load_dataset` without a split returns such a mapping; its keys would pass for rows.
    if isinstance(dataset, Mapping):
        raise ValueError(
            f"a mapping of splits {sorted(map(str, dataset))} arrived; "
            "pass one of them, dataset['train']"
        )
    return _collect(RowSource(source, "rows", numbered(dataset)))


def gather_prompts(names: Iterable[str], per_file: int | None = None) -> list[Prompt]:
    """Collect the prompts of several sources, and print how many rows of each were skipped.

    An id that an earlier source has already used gets the name of its own source in front. Files
    of one name, such as a/train.jsonl and b/train.jsonl, are told apart by their folders.

    Args:
        names: what `load_prompts` takes: files, bundled sets, presets, data sets of the Hub.
        per_file: most prompts of each. Of files and bundled sets they are evenly spread over it,
            of data sets of the Hub they are the first. Default: all.

    Returns:
        The prompts, source by source.

    Raises:
        ValueError: a source without a prompt, an unknown name, or a name that is given twice.
    """
    names = list(names)
    prompts: list[Prompt] = []
    ids: set[str] = set()
    for name, own_name in zip(names, distinct_names(names), strict=True):
        source = replace(open_rows(name), name=own_name)
        # A data set of the Hub is not read to its end for a few prompts.
        limit = per_file if source.is_remote else None
        found, skipped = _collect(source, limit)
        if skipped:
            print(describe_skipped(name, skipped))
        for prompt in evenly_spread(found, per_file):
            if prompt["id"] in ids:
                prompt["id"] = f"{own_name}/{prompt['id']}"
            ids.add(prompt["id"])
            prompts.append(prompt)
    return prompts


def write_prompts(path: str | Path, prompts: Iterable[Prompt]) -> None:
    """Write a JSON-lines file that `read_prompts` reads; it appears whole or not at all.

    Args:
        path: the file. Its folder is made where it does not exist.
        prompts: one for each line.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The rename at the end is atomic, so no reader meets half a file.
    scratch = path.with_suffix(".tmp")
    with scratch.open("w", encoding="utf-8") as file:
        for prompt in prompts:
            file.write(json.dumps(prompt, ensure_ascii=False) + "\n")
    scratch.replace(path)


def evenly_spread(rows: Sequence[T], count: int | None) -> list[T]:
    """Choose rows at equal distances, because files may be sorted (by length, say).

    Args:
        rows: anything with a length.
        count: most rows to choose. None: all.

    Returns:
        At most `count` rows, in their order.
    """
    count = len(rows) if count is None else min(count, len(rows))
    return [rows[number * len(rows) // count] for number in range(count)]


def _collect(source: RowSource, limit: int | None = None) -> tuple[list[Prompt], list[SkippedLine]]:
    """Prompts and skipped rows of a source; ValueError where there is no prompt."""
    skipped: list[SkippedLine] = []
    prompts = list(islice(parsed_rows(source, prompt_from_row, skipped), limit))
    check_found(len(prompts), skipped, source.unit, "a prompt", f"one of {COLUMNS} is needed")
    return prompts, skipped
