"""Questions of a suite with other names and numbers: GSM-Symbolic is made of such.

Numbers become "#" and capitalised words "@". Two questions are then compared by their runs of
three words, as far as at least two of the three are words:

    "Mary has 6 jars of sprinkles"      @ has # jars of sprinkles     has # jars, # jars of, ...
    "Emma has 12 jars of frosting"      @ has # jars of frosting      2 of these 3 are shared

A prompt is a rewording of a question when it has a quarter of the question's runs. The 70 bundled
maths prompts that are made of questions of the bundled suites have 0.29 to 1.0 of them, all other
bundled prompts but one at most 0.20. Of texts of 100,000 characters some have a quarter by chance.
"""

import re
from collections import Counter

RUN = 3  # words
FEWEST_RUNS = 20  # of a question; in shorter ones everyday phrases weigh too much
SHARE = 0.25  # of the question's runs

NUMBER = "#"
NAME = "@"
WORD = re.compile(r"\w+(?:[.,]\d+)*")
NUMBER_WORD = re.compile(
    r"one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven"
    r"|eigh|nine)teen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand|half"
    r"|third|quarter|twice|double|triple"
)

Run = tuple[str, ...]


class RewordedQuestions:
    """Finds the question of which a text is a rewording."""

    def __init__(self) -> None:
        self._sizes: list[int] = []  # runs of each question
        self._questions: dict[Run, list[int]] = {}  # numbers of the questions that have a run

    def add(self, question: str) -> int | None:
        """Look for a question from now on.

        Args:
            question: its text.

        Returns:
            Its number; None where it is too short to be told from everyday phrases.
        """
        runs = runs_of(question)
        if len(runs) < FEWEST_RUNS:
            return None
        number = len(self._sizes)
        self._sizes.append(len(runs))
        for run in runs:
            self._questions.setdefault(run, []).append(number)
        return number

    def find(self, text: str) -> int | None:
        """Find the question that a text rewords.

        Args:
            text: of a prompt's turn.

        Returns:
            The number of the question of which it has the largest share; None where that is less
            than a quarter.
        """
        counts: Counter[int] = Counter()
        for run in runs_of(text):
            counts.update(self._questions.get(run, ()))
        shares = {number: count / self._sizes[number] for number, count in counts.items()}
        best = max(shares, key=shares.__getitem__, default=None)
        if best is None or shares[best] < SHARE:
            return None
        return best


def runs_of(text: str) -> set[Run]:
    """The runs of three words of a text, names and numbers masked.

    Args:
        text: any.

    Returns:
        Those with at most one mask.
    """
    words = masked_words(text)
    runs = set()
    for start in range(len(words) - RUN + 1):
        run = tuple(words[start : start + RUN])
        if run.count(NUMBER) + run.count(NAME) <= 1:
            runs.add(run)
    return runs


def masked_words(text: str) -> list[str]:
    """The words of a text without case, names and numbers masked.

    Args:
        text: any.

    Returns:
        Words, "#" and "@". Neighbouring masks of one kind are one: "New York" is "@".
    """
    words: list[str] = []
    for word in WORD.findall(text):
        mask = _masked(word)
        is_repeated = mask in (NUMBER, NAME) and words[-1:] == [mask]
        if not is_repeated:
            words.append(mask)
    return words


def _masked(word: str) -> str:
    """A word, or the mask that stands for its kind."""
    lower = word.casefold()
    has_digit = any(letter.isdigit() for letter in word)
    if has_digit or NUMBER_WORD.fullmatch(lower):
        return NUMBER
    return NAME if word[0].isupper() else lower
