"""Prompts that an evaluation suite holds too: a head trained on them is measured too well.

Two texts share a passage where 13 words in a row are equal (GPT-3, arXiv 2005.14165, appendix C);
case and punctuation do not count. Turns of the suites that are shorter than that are looked for
whole, and those of fewer than 6 words must be the whole turn of the prompt: "Thank you" is no
contamination.

    suite     "... Tom's ship can travel at 10 miles per hour. He is sailing from 1 to 4 PM. ..."
    removed   "Question: Tom's ship can travel at 10 miles per hour. He is sailing from ..."
    removed   "Ann's boat can travel at 12 miles per hour. She is sailing from 2 to 6 PM. ..."

The last one is a question of the suite with other names and numbers (see rewordings.py).
"""

import re
from collections.abc import Sequence

from eagle_hf.data.prompts.suites import SUITES, load_suite
from eagle_hf.data.rows import Prompt
from eagle_hf.data.selection.rewordings import RewordedQuestions

PASSAGE = 13  # words
ANCHOR = 6  # words; every passage that is looked for begins with as many

Words = tuple[str, ...]


class ContaminationRule:
    """Removes prompts that share a passage with an evaluation suite, or reword a question of it.

    Args:
        suites: categories or JSON-lines files, as `load_suite` takes them. Default: every bundled
            one.

    Attributes:
        by_suite: how many prompts were removed for each suite.

    Raises:
        ValueError: an unknown suite.
    """

    name = "contamination"

    def __init__(self, suites: Sequence[str] = tuple(SUITES)):
        self.by_suite = dict.fromkeys(suites, 0)
        # Of each passage: the words behind its anchor, the suite, and the prompt's id there.
        self._passages: dict[Words, list[tuple[Words, str, str]]] = {}
        self._short_turns: dict[Words, tuple[str, str]] = {}
        self._rewordings = RewordedQuestions()
        self._reworded: list[tuple[str, str]] = []  # suite and id of each question
        for suite in suites:
            for prompt in load_suite([suite]):
                for turn in prompt["turns"]:
                    self._add(words_of(turn), suite, prompt["id"])
                    if self._rewordings.add(turn) is not None:
                        self._reworded.append((suite, prompt["id"]))

    def objection(self, prompt: Prompt) -> str | None:
        """See `PromptRule`."""
        for turn in prompt["turns"]:
            words = words_of(turn)
            found = self._short_turns.get(words) or self._find_passage(words)
            if found is not None:
                suite, id = found
                self.by_suite[suite] += 1
                return f"shares a passage with {id!r} of the suite {suite!r}"
            number = self._rewordings.find(turn)
            if number is not None:
                suite, id = self._reworded[number]
                self.by_suite[suite] += 1
                return f"is {id!r} of the suite {suite!r} with other names or numbers"
        return None

    def _add(self, words: Words, suite: str, id: str) -> None:
        """Look for this turn from now on."""
        if len(words) < ANCHOR:
            self._short_turns[words] = (suite, id)
            return
        for start in range(max(len(words) - PASSAGE + 1, 1)):
            passage = words[start : start + PASSAGE]
            anchored = self._passages.setdefault(passage[:ANCHOR], [])
            anchored.append((passage[ANCHOR:], suite, id))

    def _find_passage(self, words: Words) -> tuple[str, str] | None:
        """Suite and id of the first passage that these words hold."""
        for start in range(len(words) - ANCHOR + 1):
            behind = start + ANCHOR
            for rest, suite, id in self._passages.get(words[start:behind], ()):
                if words[behind : behind + len(rest)] == rest:
                    return suite, id
        return None


def words_of(text: str) -> Words:
    """The words of a text without case and punctuation.

    Args:
        text: any.

    Returns:
        Letters, digits and underscores that stand together.
    """
    return tuple(re.findall(r"\w+", text.casefold()))
