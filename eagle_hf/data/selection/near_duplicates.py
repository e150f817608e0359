"""Prompts that say almost what an earlier one says.

MinHash signatures (rensa) are cut into bands; two prompts that agree in a whole band are
candidates. For candidates the Jaccard similarity of their shingles is computed exactly, so a
prompt is never removed on an estimate:

    "add 3 and 4 please"   shingles of 5 letters: {add 3, dd 3 , d 3 a, ...}   signature of 128
    "Add 3 and 4, please!" the same letters after normalisation                -> Jaccard 1.0

With 32 bands of 4, two prompts of similarity 0.8 become candidates with probability 1 - 4e-8, of
0.6 with 0.99.
"""

from itertools import islice

from eagle_hf.data.magpie import normalize
from eagle_hf.data.optional import require
from eagle_hf.data.rows import Prompt

SHINGLE = 5  # letters; words would make one shingle of a Chinese sentence
BANDS = 32
BAND_LENGTH = 4
SEED = 42

Band = tuple[int, ...]


class NearDuplicateRule:
    """Removes prompts that are near-duplicates of one that passed before.

    It remembers the text of every prompt that passed, so its memory grows with them.

    Args:
        threshold: from this Jaccard similarity of 5-letter shingles on, in (0, 1], two prompts
            are near-duplicates. Case, punctuation and spacing do not count.

    Raises:
        ValueError: a threshold out of range, or rensa is not installed.
    """

    name = "near-duplicate"

    def __init__(self, threshold: float = 0.8):
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold is {threshold}; it must be above 0 and at most 1")
        self.threshold = threshold
        self._signature = require("rensa", "rensa", "finding near-duplicates").RMinHash
        self._buckets: list[dict[Band, list[int]]] = [{} for _ in range(BANDS)]
        self._texts: list[str] = []  # normalised, of the prompts that passed
        self._ids: list[str] = []

    def objection(self, prompt: Prompt) -> str | None:
        """See `PromptRule`. A prompt that passes is remembered."""
        text = normalize("\n".join(prompt["turns"]))
        shingles = shingles_of(text)
        bands = self._bands(shingles)
        for number in self._candidates(bands):
            similarity = jaccard(shingles, shingles_of(self._texts[number]))
            if similarity >= self.threshold:
                return f"{similarity:.2f} alike with {self._ids[number]!r}"
        self._remember(prompt["id"], text, bands)
        return None

    def _bands(self, shingles: set[str]) -> list[Band]:
        """The bands of the signature of a set of shingles."""
        signature = self._signature(num_perm=BANDS * BAND_LENGTH, seed=SEED)
        signature.update(list(shingles))
        values = iter(signature.digest())
        return [tuple(islice(values, BAND_LENGTH)) for _ in range(BANDS)]

    def _candidates(self, bands: list[Band]) -> list[int]:
        """Numbers of the remembered prompts that agree in a band, oldest first."""
        found: set[int] = set()
        for band, bucket in zip(bands, self._buckets, strict=True):
            found.update(bucket.get(band, ()))
        return sorted(found)

    def _remember(self, id: str, text: str, bands: list[Band]) -> None:
        """Let later prompts be compared with this one."""
        number = len(self._texts)
        self._texts.append(text)
        self._ids.append(id)
        for band, bucket in zip(bands, self._buckets, strict=True):
            bucket.setdefault(band, []).append(number)


def shingles_of(text: str) -> set[str]:
    """Cut a text into overlapping pieces of 5 letters.

    Args:
        text: normalised.

    Returns:
        The pieces; the text itself where it is shorter.
    """
    pieces = max(len(text) - SHINGLE + 1, 1)
    return {text[start : start + SHINGLE] for start in range(pieces)}


def jaccard(first: set[str], second: set[str]) -> float:
    """How much two sets have in common.

    Args:
        first: not empty.
        second: not empty.

    Returns:
        The share of their common elements among all of both, between 0 and 1.
    """
    common = len(first & second)
    return common / (len(first) + len(second) - common)
