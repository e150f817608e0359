"""The lines of a file, one by one: no line, however long, is held in memory whole.

A line that cannot be used is no reason to stop. It is given out as a ValueError that says why, and
the caller counts it.
"""

import json
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import BinaryIO, NamedTuple

# The longest prompt of a million tokens has about 5 MB. A longer line is a file without newlines.
LONGEST_LINE = 16 * 2**20  # bytes
# A conversation of ours holds its prompt once for every turn, by token. Fifty turns of a million
# tokens have about 400 MB.
LONGEST_CONVERSATION = 512 * 2**20  # bytes
# What a decoder with errors="surrogateescape" makes of bytes that are not UTF-8.
NOT_UTF8 = re.compile("[\udc80-\udcff]")


class NumberedRow(NamedTuple):
    """A row of a file or dataset, or why it cannot be read.

    Attributes:
        number: lines of a file count from 1, rows of a dataset from 0.
        value: what the row holds, or the ValueError that says why it holds nothing.
    """

    number: int
    value: object


def read_json_lines(path: Path, longest: int = LONGEST_LINE) -> Iterator[NumberedRow]:
    """Read a JSON-lines file.

    Args:
        path: the file.
        longest: longest line that is read, in bytes.

    Yields:
        One row for each line. A line that is not JSON, not UTF-8, empty, longer than `longest` or
        cut where the file ends comes as a ValueError.
    """
    with path.open("rb") as file:
        for number, line, is_cut in numbered_lines(file, longest):
            yield NumberedRow(number, _json_or_error(line, is_cut, longest))


def read_text_lines(path: Path, longest: int = LONGEST_LINE) -> Iterator[NumberedRow]:
    """Read a text file in which every line is one prompt; empty lines stand between prompts.

    Args:
        path: the file.
        longest: longest line that is read, in bytes.

    Yields:
        `{"text": line}` for each line that is not empty, or a ValueError.
    """
    with path.open("rb") as file:
        for number, line, is_cut in numbered_lines(file, longest):
            if not is_cut and not line.strip():
                continue
            yield NumberedRow(number, _text_or_error(line, is_cut, longest))


def parse_line(line: bytes) -> object:
    """The JSON value of a line of a file.

    Args:
        line: with or without its newline and a byte-order mark.

    Returns:
        The value.

    Raises:
        ValueError: the line is none; the text says why.
    """
    text = decode_line(line)
    if not text:
        raise ValueError("empty line")
    try:
        return json.loads(text, parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        # Whoever wrote the file was killed, or the copy is not complete.
        ends_too_early = error.pos >= len(text) or error.msg.startswith("Unterminated string")
        ending = "; the line ends in the middle of a value" if ends_too_early else ""
        raise ValueError(f"not JSON: {error}{ending}") from error
    # Numbers of too many digits, and lists nested too deep.
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not readable as JSON: {error}") from error


def refuse_constant(name: str) -> None:
    """Refuse a number that Python writes and JSON does not have.

    Args:
        name: NaN, Infinity or -Infinity.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{name} is no value of JSON; write null where nothing is known")


def decode_line(line: bytes) -> str:
    """The text of a line without white space around it.

    Args:
        line: of a UTF-8 file.

    Returns:
        The text.

    Raises:
        ValueError: the line is not UTF-8.
    """
    try:
        # Some editors begin a file with a byte-order mark.
        return line.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start}") from error


def numbered_lines(file: BinaryIO, longest: int) -> Iterator[tuple[int, bytes, bool]]:
    """Read lines, none of them longer than is wanted.

    Args:
        file: opened for bytes.
        longest: most bytes that are given of a line.

    Yields:
        Its number from 1, its bytes, and whether it is longer than what is given of it.
    """
    for number in count(1):
        line = file.readline(longest + 1)
        if not line:
            return
        is_cut = len(line) > longest and not line.endswith(b"\n")
        if is_cut:
            _skip_rest(file, longest)
        yield number, line, is_cut


def _skip_rest(file: BinaryIO, chunk: int) -> None:
    """Read to the end of a line without keeping it."""
    part = b"-"
    while part and not part.endswith(b"\n"):
        part = file.readline(chunk)


def _json_or_error(line: bytes, is_cut: bool, longest: int) -> object:
    """The JSON value of a line, or the ValueError that says why there is none."""
    if is_cut:
        return too_long(longest)
    try:
        return parse_line(line)
    except ValueError as error:
        return error


def _text_or_error(line: bytes, is_cut: bool, longest: int) -> object:
    """The row of a line of text, or the ValueError that says why there is none."""
    if is_cut:
        return too_long(longest)
    try:
        return {"text": decode_line(line)}
    except ValueError as error:
        return error


def too_long(longest: int) -> ValueError:
    """Say why a line was not read.

    Args:
        longest: longest line that is read, in bytes.

    Returns:
        The error that stands for the line.
    """
    return ValueError(
        f"the line is longer than {longest} bytes; write one row a line, with a newline after each"
    )
