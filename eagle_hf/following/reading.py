"""From the log's files into the pool: what was written since the last call, and nothing twice."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from eagle_hf.data.rows import REASONS_SHOWN, Example
from eagle_hf.following.log_files import (
    LogLine,
    Mark,
    find_log_files,
    find_mark,
    has_unread,
    mark_at,
    unread_lines,
)
from eagle_hf.following.log_rows import RowReader
from eagle_hf.following.pool import Pool

LINES = 500  # of one transaction


class Reading:
    """What a call has read.

    Attributes:
        lines: whole lines, empty ones not counted.
        added: new conversations.
        repeated: conversations that the pool held, token by token.
        bad: lines that gave none.
        reasons: why, of the first of them.
        unreadable: files that could not be opened, and why.
    """

    def __init__(self) -> None:
        self.lines = 0
        self.added = 0
        self.repeated = 0
        self.bad = 0
        self.reasons: list[str] = []
        self.unreadable: list[str] = []

    def refuse(self, name: str, reason: str) -> None:
        """Count a bad line."""
        self.bad += 1
        if len(self.reasons) < REASONS_SHOWN:
            self.reasons.append(f"{name}: {reason}")

    def __str__(self) -> str:
        text = (
            f"{self.lines} new lines: {self.added} new conversations, {self.repeated} repeated, "
            f"{self.bad} bad lines"
        )
        if self.reasons:
            text += f" ({'; '.join(self.reasons)})"
        if self.unreadable:
            text += f"; not read: {'; '.join(self.unreadable)}"
        return text


class Unread(NamedTuple):
    """A file with lines behind its mark."""

    path: Path
    mark: Mark


def find_unread(folder: Path, pool: Pool, reading: Reading) -> list[Unread]:
    """Find the files of a log that have grown.

    Args:
        folder: of the log.
        pool: knows how far they were read.
        reading: takes the files that cannot be opened.

    Returns:
        The files, oldest first.

    Raises:
        ValueError: there is no log.
    """
    marks = pool.marks()
    moved = []
    found = []
    for path in find_log_files(folder):
        try:
            mark = find_mark(path, marks)
            if mark.offset and mark not in marks:
                moved.append(mark)
            if has_unread(path, mark):
                found.append(Unread(path, mark))
        except FileNotFoundError:  # deleted a moment ago
            continue
        except OSError as error:
            reading.unreadable.append(f"{path}: {error.strerror}")
    # The old name soon stands for another file, whose mark would replace this one.
    with pool.transaction():
        for mark in moved:
            pool.set_mark(mark)
    return found


def read_files(
    files: list[Unread],
    pool: Pool,
    reader: RowReader,
    reading: Reading,
    bound: Callable[[], None],
) -> None:
    """Take what the files have got into the pool, some lines at a time.

    Args:
        files: of `find_unread`.
        pool: takes conversations and marks.
        reader: makes examples of lines.
        reading: counts.
        bound: keeps the pool within its bounds; called inside every transaction.
    """
    for path, mark in files:
        lines = unread_lines(path, mark)
        try:
            while part := list(islice(lines, LINES)):
                _read_part(path, part, pool, reader, reading, bound)
        except FileNotFoundError:  # deleted a moment ago; what was read is kept
            continue


def _read_part(
    path: Path,
    part: list[LogLine],
    pool: Pool,
    reader: RowReader,
    reading: Reading,
    bound: Callable[[], None],
) -> None:
    """Take some lines of a file, and the mark behind them, in one transaction."""
    examples: list[Example] = []
    for line in part:
        examples += _read_line(f"{path.name} line {line.number}", line, reader, reading)
    last = part[-1]
    mark = mark_at(path, last.end, last.number)
    with pool.transaction():
        added = pool.add(examples)
        pool.set_mark(mark)
        pool.set_facts(has_conversations=pool.fact("has_conversations", False) or bool(examples))
        bound()
    reading.added += added
    reading.repeated += len(examples) - added


def _read_line(name: str, line: LogLine, reader: RowReader, reading: Reading) -> list[Example]:
    """The examples of a line; none of a bad one, which is counted."""
    if line.text is not None and not line.text.strip():
        return []
    reading.lines += 1
    if line.text is None:
        reading.refuse(name, "longer than any conversation; write one row a line")
        return []
    try:
        return reader.read(name, line.text)
    except ValueError as error:
        reading.refuse(name, str(error))
        return []
