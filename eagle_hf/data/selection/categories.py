"""What a prompt is about, told by rules: code, math, multilingual or chat.

The categories are those of the bundled evaluation suites, by which a head's acceptance differs
most. The rules read words and signs, at about the speed of reading; they are meant for the shares
of a sample, where single errors cancel out, and not for single prompts.
"""

import re
from collections.abc import Iterable

from eagle_hf.data.rows import Prompt
from eagle_hf.data.selection.languages import UNKNOWN, LanguageDetector

CODE = "code"
MATH = "math"
MULTILINGUAL = "multilingual"
CHAT = "chat"
UNCATEGORISED = "other"  # what a prompt's category is where nothing says so

CODE_SIGNS = re.compile(
    r"```|\bdef \w+\(|\bclass \w+[:({]|#include\b|</\w+>|\bconsole\.log\b|\bpublic static\b|std::"
    r"|\bSELECT\b.+\bFROM\b|^\s*(?:import|from) [\w.]+(?: import .+)?$",
    re.MULTILINE,
)
CODE_WORDS = re.compile(
    r"\b(python|javascript|typescript|java|rust|golang|sql|html|css|bash|regex|regular expression"
    r"|json|api|code|function|script|algorithm|compiler|debug|program|programming|unit test"
    r"|stack trace|git|docker|linux|arrays?|linked list|binary tree|leetcode|recursion|class"
    r"|numpy|pandas|react|django|website|implement)\b|c\+\+|c#",
)
FEWEST_CODE_WORDS = 2  # different ones; "the function of the heart" has one

MATH_SIGNS = re.compile(
    r"\\(?:frac|sum|int|sqrt|boxed|cdot|leq|geq)\b|\$[^$\n]*[=^\\][^$\n]*\$|\d\s*[+*=×÷]\s*\d|\w\^\{?\w"
)
MATH_WORDS = re.compile(
    r"\b(calculate|compute|solve|equation|how many|how much|how long|how far|how old|sum|product"
    r"|probability|percent|average|total|remainder|divisible|integral|derivative|triangle|matrix"
    r"|prime|fraction|ratio|prove|theorem|polynomial|area|perimeter|volume|twice|doubles?|half"
    r"|a third|a quarter|a fifth|per)\b|%"
)
NUMBERS = re.compile(
    r"\d+|\b(?:two|three|four|five|six|seven|eight|nine|ten|twelve|twenty|hundred)\b"
)
FEWEST_NUMBERS = 2

FOREIGN_SHARE = 0.3  # of letters that are not ASCII, from which on a text is not English


def estimate_category(text: str, detector: LanguageDetector | None = None) -> str:
    """Tell what a prompt is about.

    Args:
        text: of the user's turns.
        detector: tells French from English. Without one, only texts with many letters that are
            not ASCII count as multilingual.

    Returns:
        "code", "math", "multilingual" or "chat".
    """
    lower = text.casefold()
    if _is_code(text, lower):
        return CODE
    if _is_foreign(text, detector):
        return MULTILINGUAL
    if _is_math(text, lower):
        return MATH
    return CHAT


def with_categories(
    prompts: Iterable[Prompt], detector: LanguageDetector | None = None
) -> list[Prompt]:
    """Give a category to the prompts that have none.

    Args:
        prompts: those whose category is "other" get the estimated one.
        detector: as for `estimate_category`.

    Returns:
        The prompts in order. Those that arrived are not changed.
    """
    categorised: list[Prompt] = []
    for prompt in prompts:
        if prompt["category"] == UNCATEGORISED:
            category = estimate_category("\n".join(prompt["turns"]), detector)
            prompt = prompt.copy()
            prompt["category"] = category
        categorised.append(prompt)
    return categorised


def _is_code(text: str, lower: str) -> bool:
    """Whether a text holds code or talks of programs."""
    if CODE_SIGNS.search(text):
        return True
    words = {match.group() for match in CODE_WORDS.finditer(lower)}
    return len(words) >= FEWEST_CODE_WORDS


def _is_math(text: str, lower: str) -> bool:
    """Whether a text holds formulas, or asks for a number with numbers."""
    if MATH_SIGNS.search(text):
        return True
    numbers = len(NUMBERS.findall(lower))
    return numbers >= FEWEST_NUMBERS and MATH_WORDS.search(lower) is not None


def _is_foreign(text: str, detector: LanguageDetector | None) -> bool:
    """Whether a text is not in English."""
    letters = [letter for letter in text if letter.isalpha()]
    foreign = sum(not letter.isascii() for letter in letters)
    if foreign > FOREIGN_SHARE * len(letters):
        return True
    if detector is None:
        return False
    return detector.language(text) not in ("en", UNKNOWN)
