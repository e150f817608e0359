"""The values of a file that holds one JSON list, one by one: the list is never in memory whole.

A value that cannot be read ends the reading, because nothing says where the next one begins. It is
given out as a ValueError, and the values before it are used.
"""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from eagle_hf.data.reading.lines import LONGEST_LINE, NOT_UTF8, NumberedRow, refuse_constant

CHUNK = 2**20  # bytes read at once
ADVICE = "write one row a line into a .jsonl file, where a bad row does not spoil the others"
NUMBER_SIGNS = "0123456789.eE+-"
BETWEEN = re.compile(r"[\s,]*")


def read_json_list(path: Path, longest: int = LONGEST_LINE) -> Iterator[NumberedRow]:
    """Read the values of a JSON list.

    Args:
        path: the file.
        longest: longest value that is read, in characters.

    Yields:
        Its values, numbered from 0. One that is not UTF-8 comes as a ValueError. One that is no
        JSON, longer than `longest` or cut where the file ends does too, and is the last.
    """
    with path.open("rb") as file:
        text = _GrowingText(file)
        text.skip("[")
        number = 0
        while not text.skip("]"):
            value = text.next_value(longest)
            yield NumberedRow(number, value)
            if text.is_lost:
                return
            number += 1


class _GrowingText:
    """The text of a file from the place on that is read now.

    Attributes:
        is_lost: whether a value could not be read, so that nobody knows where the next one begins.
    """

    def __init__(self, file: BinaryIO):
        self.is_lost = False
        self._file = file
        decoder = codecs.getincrementaldecoder("utf-8-sig")
        self._decoder = decoder(errors="surrogateescape")
        self._json = json.JSONDecoder(parse_constant=refuse_constant)
        self._text = ""
        self._place = 0
        self._is_whole = False  # nothing is left in the file

    def skip(self, sign: str) -> bool:
        """Go past white space, commas and a sign; whether the sign was there."""
        self._skip_between()
        if not self._text.startswith(sign, self._place):
            return False
        self._place += len(sign)
        return True

    def next_value(self, longest: int) -> object:
        """The value that begins here, or the ValueError that says why there is none."""
        self._skip_between()
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._place)
            except (ValueError, RecursionError) as error:
                if self._is_whole or len(self._text) - self._place > longest:
                    self.is_lost = True
                    return self._why(error, longest)
                self._read_more()
                continue
            if self._may_go_on(value, end):
                self._read_more()
                continue
            is_encodable = NOT_UTF8.search(self._text, self._place, end) is None
            self._place = end
            return value if is_encodable else ValueError("not UTF-8")

    def _may_go_on(self, value: object, end: int) -> bool:
        """Whether a value may be the beginning of a longer number: 0 of 0.25, 1 of 1e-3."""
        is_number = not isinstance(value, dict | list | str)
        is_at_end = len(self._text) - end <= len("e-")
        if self._is_whole or not (is_number and is_at_end):
            return False
        return all(letter in NUMBER_SIGNS for letter in self._text[end:])

    def _skip_between(self) -> None:
        """Go past white space and commas."""
        while True:
            found = BETWEEN.match(self._text, self._place)
            assert found is not None, "the expression matches nothing at all too"
            self._place = found.end()
            if self._place < len(self._text) or self._is_whole:
                return
            self._read_more()

    def _read_more(self) -> None:
        """Drop what was read, and add the next part of the file."""
        data = self._file.read(CHUNK)
        self._is_whole = not data
        self._text = self._text[self._place :] + self._decoder.decode(data, final=not data)
        self._place = 0

    def _why(self, error: Exception, longest: int) -> ValueError:
        """Why the value that begins here cannot be read."""
        if len(self._text) - self._place > longest:
            reason = f"no JSON value ends within {longest} characters"
        elif self._place >= len(self._text):
            reason = "the list ends without its bracket"
        else:
            reason = f"not JSON, or cut in the middle: {str(error).split(':')[0]}"
        return ValueError(f"{reason}; the rows from here on are lost: {ADVICE}")
