"""Where rows come from: files, bundled sets, presets and data sets of the Hub, behind one door.

A name stands for the first of these that it fits:

    mine.jsonl  mine.json  mine.txt  mine.parquet  mine.csv       a file
    outputs/responses                                             a folder with conversations.jsonl
    train_code_codeio                                             a bundled set
    ultrachat                                                     a preset (see prompts/presets.py)
    owner/name                                                    a data set of the Hub

Rows come one by one. Whoever reads them decides what they hold: prompts or conversations.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from eagle_hf.data.answers.conversation_file import CONVERSATIONS, stored_conversations
from eagle_hf.data.answers.store import TURNS
from eagle_hf.data.optional import require
from eagle_hf.data.prompts.bundled_sets import bundled_names, bundled_prompts
from eagle_hf.data.prompts.presets import PRESETS, describe_preset
from eagle_hf.data.reading.json_lists import read_json_list
from eagle_hf.data.reading.lines import (
    LONGEST_CONVERSATION,
    NumberedRow,
    read_json_lines,
    read_text_lines,
)
from eagle_hf.data.reading.remote_files import is_url, local_copy
from eagle_hf.data.reading.seen_ids import SeenIds
from eagle_hf.data.reading.tables import read_csv, read_parquet
from eagle_hf.data.rows import SkippedLine, first_reasons

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
UTF8_MARK = b"\xef\xbb\xbf"

Parsed = TypeVar("Parsed")
ParsedAs = TypeVar("ParsedAs", covariant=True)


class RowParser(Protocol[ParsedAs]):
    """Makes a prompt or a conversation of a row; ValueError where the row holds none."""

    def __call__(self, row: object, *, default_id: str, source: str) -> ParsedAs:
        """The prompt or conversation of a row."""
        ...


@dataclass(frozen=True)
class RowSource:
    """Rows that can be read once.

    Attributes:
        name: begins the ids of rows without one, and is their source.
        unit: what the rows are called in reports: "lines of mine.jsonl".
        rows: the rows in order.
        is_remote: whether they come from the Hub, where reading all of them may take hours.
    """

    name: str
    unit: str
    rows: Iterable[NumberedRow]
    is_remote: bool = False


def open_rows(
    name: str | Path, *, config: str | None = None, split: str | None = None, streaming: bool = True
) -> RowSource:
    """Find what a name stands for, and open it. What a preset's terms are is printed first.

    Args:
        name: of a file, folder, bundled set, preset or data set of the Hub, or the URL of a file
            that fsspec opens.
        config: of a data set of the Hub.
        split: of a data set of the Hub. Default: the preset's, or "train".
        streaming: read data sets of the Hub as they come, and keep nothing on disk.

    Returns:
        Its rows.

    Raises:
        ValueError: the name stands for nothing, a file does not exist or ends in an unknown way,
            or `datasets` is needed and not installed.
    """
    path = local_copy(str(name)) if is_url(name) else Path(name)
    is_local = path.suffix in FILE_READERS or path.exists() or path.is_absolute()
    if is_local:
        return open_file(path)
    name = str(name)
    if name in bundled_names():
        return open_file(bundled_prompts(name))
    if name in PRESETS:
        preset = PRESETS[name]
        print(describe_preset(name))
        rows = _hub_rows(preset.dataset, config, split or preset.split, streaming, preset.data_file)
        return RowSource(name, f"rows of {preset.dataset}", rows, is_remote=True)
    if HUB_NAME.fullmatch(name):
        rows = _hub_rows(name, config, split or "train", streaming)
        return RowSource(name, f"rows of {name}", rows, is_remote=True)
    raise ValueError(
        f"{name!r} is no file, bundled set ({', '.join(bundled_names())}) "
        f"or preset ({', '.join(PRESETS)}); a data set of the Hub is called owner/name"
    )


def distinct_names(names: Sequence[str | Path]) -> list[str]:
    """Name several sources so that no two share a name.

    Args:
        names: as `open_rows` takes them.

    Returns:
        For each the name that it has alone, with as many of its folders in front as it takes to
        tell it from the others. Files that differ in their ending keep it.

    Raises:
        ValueError: one is given twice.
    """
    given = [str(name) for name in names]
    for name in given:
        if given.count(name) > 1:
            raise ValueError(f"{name} is given {given.count(name)} times; give it once")
    distinct = []
    for name in given:
        others = [Path(other) for other in given if other != name]
        distinct.append(_distinct_name(Path(name), others))
    return distinct


def _distinct_name(path: Path, others: Sequence[Path]) -> str:
    """The shortest name of a path that none of the others has."""
    is_file = path.suffix in FILE_READERS
    if not is_file:
        return path.as_posix()
    if all(path.stem != other.stem for other in others):
        return path.stem
    for count in range(1, len(path.parts)):
        end = path.parts[-count:]
        if all(other.parts[-count:] != end for other in others):
            return "/".join(end)
    return path.as_posix()


def open_file(path: Path) -> RowSource:
    """Open a file, or the conversations of a folder.

    Args:
        path: of the file or folder. Of a folder whose answers are still being written, those that
            are finished are read.

    Returns:
        Its rows.

    Raises:
        ValueError: it does not exist, or its ending says nothing about its format.
    """
    file = path / CONVERSATIONS if path.is_dir() else path
    if not file.is_file() and (path / TURNS).is_file():
        rows = numbered(stored_conversations(path))
        return RowSource(file.stem, f"conversations of {path / TURNS}", rows)
    if not file.is_file():
        raise ValueError(f"{file} does not exist; give a file, or a folder with {CONVERSATIONS}")
    if file.suffix not in FILE_READERS:
        raise ValueError(
            f"{file} ends in {file.suffix!r}; files that can be read end in "
            f"{', '.join(FILE_READERS)}"
        )
    if file.name == CONVERSATIONS:
        rows = read_json_lines(file, LONGEST_CONVERSATION)
    else:
        rows = FILE_READERS[file.suffix](file)
    return RowSource(file.stem, f"lines of {file.name}", rows)


def parsed_rows(
    source: RowSource, parse: RowParser[Parsed], skipped: list[SkippedLine]
) -> Iterator[Parsed]:
    """Make prompts or conversations of rows, while they are read.

    Args:
        source: the rows.
        parse: makes one of a row.
        skipped: collects the rows that give none.

    Yields:
        What the rows hold, in order, with distinct ids.
    """
    ids = SeenIds()
    for number, value in source.rows:
        try:
            if isinstance(value, ValueError):
                raise value
            parsed: Any = parse(value, default_id=f"{source.name}-{number}", source=source.name)
            # Only a row that is used claims its id.
            if not ids.add(parsed["id"]):
                raise ValueError(f"the id {parsed['id']!r} was used before")
        except ValueError as error:
            skipped.append(SkippedLine(number, str(error)))
            continue
        yield parsed


def check_found(
    found: int, skipped: list[SkippedLine], unit: str, missing: str, advice: str
) -> None:
    """Refuse rows of which none can be used.

    Args:
        found: how many prompts or conversations were made of the rows.
        skipped: the rows that gave nothing.
        unit: what the rows are called.
        missing: what one of them should have held.
        advice: what is needed.

    Raises:
        ValueError: nothing was found; the error has the first reasons.
    """
    if found:
        return
    reasons = first_reasons(skipped, "there were none")
    raise ValueError(f"none of {len(skipped)} {unit} holds {missing} ({reasons}); {advice}")


def describe_skipped(name: str | Path, skipped: list[SkippedLine]) -> str:
    """Say how many rows of a source were left out, and the first of them.

    Args:
        name: of the source.
        skipped: its rows that were left out; at least one.

    Returns:
        One line.
    """
    first = skipped[0]
    return f"{name}: {len(skipped)} lines skipped, the first: line {first.line}, {first.reason}"


def _read_json(path: Path) -> Iterator[NumberedRow]:
    """The rows of a file that holds one JSON list, or one JSON value a line."""
    with path.open("rb") as file:
        beginning = file.read(64).removeprefix(UTF8_MARK).lstrip()
    return read_json_list(path) if beginning.startswith(b"[") else read_json_lines(path)


def _hub_rows(
    dataset: str, config: str | None, split: str, streaming: bool, data_file: str | None = None
) -> Iterable[NumberedRow]:
    """The rows of a data set of the Hub."""
    datasets = require("datasets", "datasets", f"reading {dataset}")
    rows = datasets.load_dataset(
        dataset, config, split=split, streaming=streaming, data_files=data_file
    )
    return numbered(rows)


def numbered(rows: Iterable[Any]) -> Iterator[NumberedRow]:
    """Number the rows of a dataset.

    Args:
        rows: any iterable of rows.

    Yields:
        The rows, from 0.
    """
    for number, row in enumerate(rows):
        yield NumberedRow(number, row)


FILE_READERS: dict[str, Callable[[Path], Iterator[NumberedRow]]] = {
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": _read_json,
    ".txt": read_text_lines,
    ".parquet": read_parquet,
    ".csv": read_csv,
}
