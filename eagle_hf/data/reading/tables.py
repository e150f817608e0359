"""The rows of tables, one by one: CSV and parquet.

A row of a CSV file that cannot be used is given out as a ValueError, and the next one is read. A
parquet file that is damaged ends where the damage is.
"""

import csv
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from eagle_hf.data.optional import require
from eagle_hf.data.reading.lines import (
    LONGEST_LINE,
    NOT_UTF8,
    NumberedRow,
    numbered_lines,
    too_long,
)

ROWS_AT_ONCE = 64  # of a parquet file


def read_csv(path: Path, longest: int = LONGEST_LINE) -> Iterator[NumberedRow]:
    """Read a CSV file: commas, double quotes, names in the first line.

    Args:
        path: the file.
        longest: longest line and field that are read, in bytes and characters.

    Yields:
        A mapping for each row, numbered by its first line; empty fields are None. A row that is
        not UTF-8, has another number of fields than there are names, or quotes wrongly comes as a
        ValueError.
    """
    # A setting of the whole process; its default refuses fields of 131,072 characters.
    csv.field_size_limit(max(csv.field_size_limit(), longest))
    with path.open("rb") as file:
        lines = _TextLines(file, longest)
        reader = csv.reader(lines, strict=True)
        names: list[str] | None = None
        while True:
            lines.begin_row()
            try:
                fields = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                yield NumberedRow(lines.first, ValueError(f"not CSV: {error}"))
                continue
            yield from lines.take_skipped()
            if names is None:
                names = fields
            elif fields:
                yield NumberedRow(lines.first, _row_or_error(names, fields))
        yield from lines.take_skipped()


def read_parquet(path: Path) -> Iterator[NumberedRow]:
    """Read a parquet file.

    Args:
        path: the file.

    Yields:
        A mapping for each row, numbered from 0. Where the file is damaged, a ValueError comes last.

    Raises:
        ValueError: it is no parquet file, or pyarrow is not installed.
    """
    require("pyarrow", "datasets", f"reading {path.name}")
    parquet = import_module("pyarrow.parquet")
    try:
        file = parquet.ParquetFile(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is no readable parquet file ({error}); write it anew") from error
    number = 0
    with file:
        batches = file.iter_batches(batch_size=ROWS_AT_ONCE)
        while True:
            try:
                batch = next(batches, None)
                rows: list[dict[str, Any]] = [] if batch is None else batch.to_pylist()
            except (ValueError, OSError) as error:
                reason = f"the file is damaged ({error}); the rows from here on are lost"
                yield NumberedRow(number, ValueError(reason))
                return
            if batch is None:
                return
            for row in rows:
                yield NumberedRow(number, row)
                number += 1


class _TextLines:
    """The lines of a file as text. Bytes that are not UTF-8 stay in it as half surrogates.

    Attributes:
        first: number of the first line of the row that is read.
    """

    def __init__(self, file: BinaryIO, longest: int):
        self.first = 0
        self._is_first = True
        self._lines = numbered_lines(file, longest)
        self._longest = longest
        self._skipped: list[NumberedRow] = []

    def __iter__(self) -> "_TextLines":
        return self

    def __next__(self) -> str:
        for number, line, is_cut in self._lines:
            if is_cut:
                self._skipped.append(NumberedRow(number, too_long(self._longest)))
                continue
            if self._is_first:
                self.first = number
                self._is_first = False
            # Some editors begin a file with a byte-order mark.
            encoding = "utf-8-sig" if number == 1 else "utf-8"
            return line.decode(encoding, errors="surrogateescape")
        raise StopIteration

    def begin_row(self) -> None:
        """Take the next line for the first one of a row."""
        self._is_first = True

    def take_skipped(self) -> list[NumberedRow]:
        """The lines that were too long, since they were asked for last."""
        skipped = self._skipped
        self._skipped = []
        return skipped


def _row_or_error(names: list[str], fields: list[str]) -> object:
    """The row of these fields, or the ValueError that says why there is none."""
    if len(fields) != len(names):
        return ValueError(
            f"the row has {len(fields)} fields and the first line names {len(names)}; "
            "quote fields that hold commas or line breaks"
        )
    if NOT_UTF8.search("".join(fields)):
        return ValueError("not UTF-8")
    return {name: field or None for name, field in zip(names, fields, strict=True)}
