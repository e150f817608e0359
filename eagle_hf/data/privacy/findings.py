"""What a rule finds in a text: a kind of personal data or secret, and where it stands."""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

WORD_BEFORE = 40  # characters before a number in which the word that explains it may stand
WORD_AFTER = 25
LATIN = "A-Za-zÀ-ɏ"


class Finding(NamedTuple):
    """A stretch of text that a rule recognises.

    Attributes:
        kind: one of `KINDS`.
        start: its first character.
        end: the character behind it.
    """

    kind: str
    start: int
    end: int


Rule = Callable[[str], Iterable[Finding]]


def merge_overlapping(findings: Iterable[Finding]) -> list[Finding]:
    """Join findings that share characters, so that none of them is left in the text.

    Args:
        findings: of several rules, in any order.

    Returns:
        Findings in the order of the text, none of which overlaps another. A joined finding has
        the kind of the one that begins first, the longer one where two begin together.
    """
    merged: list[Finding] = []
    for finding in sorted(findings, key=_reading_order):
        if merged and finding.start < merged[-1].end:
            last = merged.pop()
            finding = Finding(last.kind, last.start, max(last.end, finding.end))
        merged.append(finding)
    return merged


def holds_any(text: str, parts: Iterable[str]) -> bool:
    """Whether a text holds one of several strings; a rule asks so before a slower pattern.

    Args:
        text: any text.
        parts: what to look for.

    Returns:
        True where one of them is in it.
    """
    return any(map(text.__contains__, parts))


def has_word_beside(word: re.Pattern[str], text: str, start: int, end: int) -> bool:
    """Whether a word that explains a number stands near it.

    Args:
        word: what the word may be.
        text: the whole text.
        start: the number's first character.
        end: the character behind it.

    Returns:
        True where the word stands at most `WORD_BEFORE` characters before the number or
        `WORD_AFTER` behind it, in the same paragraph.
    """
    before = text[max(0, start - WORD_BEFORE) : start].rpartition("\n\n")[2]
    after = text[end : end + WORD_AFTER].partition("\n")[0]
    return word.search(before) is not None or word.search(after) is not None


class Words:
    """Words that explain the numbers beside them, such as "SSN".

    A word in lower case is found in any case, one with capitals only as it is written. Words of
    Latin letters are whole words.

    Args:
        words: in any language; they may hold spaces.
    """

    def __init__(self, words: Iterable[str]):
        words = tuple(words)
        self._any_case = tuple(word for word in words if word == word.lower())
        self._as_written = tuple(word for word in words if word != word.lower())
        branches = []
        for word in words:
            escaped = re.escape(word)
            branches.append(f"(?i:{escaped})" if word == word.lower() else escaped)
        self._pattern = re.compile(rf"(?<![{LATIN}])(?:{'|'.join(branches)})(?![{LATIN}])")

    def may_be_in(self, text: str, lowered: str) -> bool:
        """Whether one of the words may stand in a text; fast, and sometimes wrongly True.

        Args:
            text: as it is written.
            lowered: the text in lower case.

        Returns:
            False where none of them does.
        """
        return holds_any(lowered, self._any_case) or holds_any(text, self._as_written)

    def are_beside(self, text: str, start: int, end: int) -> bool:
        """Whether one of the words stands near a number.

        Args:
            text: the whole text.
            start: the number's first character.
            end: the character behind it.

        Returns:
            As `has_word_beside`.
        """
        return has_word_beside(self._pattern, text, start, end)


def _reading_order(finding: Finding) -> tuple[int, int]:
    """Sorts findings by their beginning, the longer one first."""
    return finding.start, -finding.end
