"""The files of a log, and how far each was read.

A file is recognised by what it holds and not by its name: the bytes before the place where reading
ended are remembered as a digest. So a file that was renamed or copied by a rotation goes on where
it was, and one that was truncated or replaced begins anew.

A last line without a newline may be half written: it waits for the next call.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from eagle_hf.data.reading.lines import LONGEST_CONVERSATION

PATTERN = "*.jsonl*"  # rotations put a number or a date behind the name
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")
TAIL = 4096  # bytes before a mark by which a file is recognised
CHUNK = 2**20  # bytes


class Mark(NamedTuple):
    """How far a file was read.

    Attributes:
        path: under which it was found.
        offset: behind the last line that was read, in bytes.
        lines: before it.
        tail: digest of the bytes before it.
    """

    path: str
    offset: int
    lines: int
    tail: str


class LogLine(NamedTuple):
    """A whole line of a log.

    Attributes:
        number: in its file, from 1.
        text: None where it is longer than any conversation.
        end: behind its newline, in bytes.
    """

    number: int
    text: bytes | None
    end: int


def find_log_files(folder: Path) -> list[Path]:
    """List the files of a log, in the order in which they were last written to.

    Args:
        folder: of the log; folders in it are searched too.

    Returns:
        The files that are not compressed.

    Raises:
        ValueError: there is no such folder, or no such file in it.
    """
    if not folder.is_dir():
        raise ValueError(
            f"the log {folder} is no folder; give the one that the service writes its JSON lines to"
        )
    found = []
    for path in folder.rglob(PATTERN):
        if path.suffix in COMPRESSED:
            continue
        try:
            if path.is_file():
                found.append((path.stat().st_mtime_ns, str(path)))
        except FileNotFoundError:  # a rotation was faster
            continue
    if not found:
        raise ValueError(
            f"{folder} holds no file {PATTERN} that is not compressed; give the folder that the "
            "service writes its JSON lines to"
        )
    return [Path(name) for _, name in sorted(found)]


def find_mark(path: Path, marks: Iterable[Mark]) -> Mark:
    """Find out how far a file was read.

    Args:
        path: of the file.
        marks: of all files, as they were after the last reading.

    Returns:
        The mark of this content under this path; one at the beginning where it is new.

    Raises:
        OSError: the file cannot be read.
    """
    by_path = {mark.path: mark for mark in marks}
    own = by_path.get(str(path))
    with path.open("rb") as file:
        if own is not None and _fits(file, own):
            return own
        fitting = [mark for mark in by_path.values() if _fits(file, mark)]
    if not fitting:
        return Mark(str(path), 0, 0, "")
    furthest = max(fitting, key=_offset)
    return furthest._replace(path=str(path))


def has_unread(path: Path, mark: Mark) -> bool:
    """Whether a whole line stands behind a mark.

    Args:
        path: of the file.
        mark: how far it was read.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        file.seek(mark.offset)
        while chunk := file.read(CHUNK):
            if b"\n" in chunk:
                return True
    return False


def unread_lines(path: Path, mark: Mark, longest: int = LONGEST_CONVERSATION) -> Iterator[LogLine]:
    """Read the whole lines behind a mark.

    Args:
        path: of the file.
        mark: how far it was read.
        longest: longest line that is kept, in bytes.

    Yields:
        Every line that ends with a newline.

    Raises:
        OSError: the file cannot be read.
    """
    number = mark.lines
    end = mark.offset
    with path.open("rb") as file:
        file.seek(mark.offset)
        while line := file.readline(longest + 1):
            size = len(line)
            is_cut = size > longest and not line.endswith(b"\n")
            last = line
            while is_cut and last and not last.endswith(b"\n"):
                last = file.readline(CHUNK)
                size += len(last)
            if not last.endswith(b"\n"):
                return
            number += 1
            end += size
            yield LogLine(number, None if is_cut else line, end)


def mark_at(path: Path, offset: int, lines: int) -> Mark:
    """Make the mark of a place in a file.

    Args:
        path: of the file.
        offset: of the place, in bytes.
        lines: before it.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return Mark(str(path), offset, lines, _tail(file, offset) or "")


def _offset(mark: Mark) -> int:
    return mark.offset


def _fits(file: BinaryIO, mark: Mark) -> bool:
    """Whether a file holds what was read up to a mark."""
    return mark.offset > 0 and _tail(file, mark.offset) == mark.tail


def _tail(file: BinaryIO, offset: int) -> str | None:
    """The digest of the bytes before an offset; None where the file is shorter."""
    begin = max(0, offset - TAIL)
    file.seek(begin)
    content = file.read(offset - begin)
    if len(content) < offset - begin:
        return None
    return hashlib.sha256(content).hexdigest()
