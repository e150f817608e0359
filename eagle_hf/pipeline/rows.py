"""JSON lines of a step: written whole or not at all, read one by one."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

SHOWN_REASONS = 5


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Read the rows that a step has written.

    Args:
        path: of the file. The package wrote it, so every line is a row.

    Yields:
        The rows in order.

    Raises:
        ValueError: a line is no JSON object.
    """
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(
                    f"line {number} of {path} is not JSON ({error}); move its folder away and run "
                    "again"
                ) from error
            yield row


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows into a file that appears under its name once it is whole.

    Args:
        path: the file. Its folder exists.
        rows: anything that JSON holds.

    Returns:
        How many there were.
    """
    count = 0
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(_line(row))
            count += 1
    temporary.replace(path)
    return count


def rows_fingerprint(rows: Iterable[Mapping[str, Any]]) -> str:
    """The SHA-256 of the file that `write_rows` would write."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(_line(row).encode("utf-8"))
    return digest.hexdigest()


def _line(row: Mapping[str, Any]) -> str:
    """A row as a line that UTF-8 can write: half a surrogate pair is escaped."""
    line = json.dumps(row, ensure_ascii=False) + "\n"
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(row) + "\n"
    return line


def count_lines(path: Path) -> int:
    """The lines of a file, for the end of a progress bar."""
    with path.open("rb") as file:
        return sum(1 for _ in file)


def print_reasons(what: str, rows: Sequence[tuple[str, str]]) -> None:
    """Print the first rows that nothing comes of, each with its reason.

    Args:
        what: became of them, as "skipped".
        rows: ids and reasons.
    """
    for name, reason in rows[:SHOWN_REASONS]:
        print(f"{what} {name}: {reason}")
    if len(rows) > SHOWN_REASONS:
        print(f"{what}: {len(rows) - SHOWN_REASONS} more")
