"""Prompts that say almost what an earlier one says.

MinHash signatures (rensa) find the candidates, and for these the Jaccard similarity of their
shingles is computed exactly, so a prompt is never removed on an estimate:

    "add 3 and 4 please"   shingles of 5 letters: {add 3, dd 3 , d 3 a, ...}   signature of 128
    "Add 3 and 4, please!" the same letters after normalisation                -> Jaccard 1.0

A candidate agrees in a whole band of the signature, and in about as many of its 128 values as the
threshold asks for. Of near-duplicates, fewer than 1 in 5,000 fail to become one.

N candidates, S shingles of a text, P values of a signature.
"""

from functools import lru_cache

import numpy as np

from eagle_hf.data.optional import require
from eagle_hf.data.prompts.magpie import normalize
from eagle_hf.data.rows import Prompt

SHINGLE = 5  # letters; words would make one shingle of a Chinese sentence
VALUES = 128  # of a signature
SEED = 42
REMEMBERED = 1024  # texts whose shingles are kept
MISSED = 1e-4  # share of the near-duplicates at the threshold that share no band
# Four standard deviations of the share of equal values, at most: 4 * sqrt(0.25 / 128).
ESTIMATE_ERROR = 0.18

# Of the hash of a shingle: odd 64-bit constants whose products spread over all bits.
FACTOR = np.uint64(0x9E3779B97F4A7C15)
LAST_FACTOR = np.uint64(0xBF58476D1CE4E5B9)
HALF = np.uint64(32)


class NearDuplicateRule:
    """Removes prompts that are near-duplicates of one that passed before.

    It remembers text and signature of every prompt that passed, so its memory grows with them.

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
        self._minhash = require("rensa", "rensa", "finding near-duplicates").RMinHash
        self._band_length = band_length(threshold)
        # By band, its number in front: the first prompt that has it, and the numbers of others.
        # Most bands have one prompt, and a list for each would occupy the garbage collector.
        self._first: dict[bytes, int] = {}
        self._later: dict[bytes, list[int]] = {}
        self._signatures = np.empty((1024, VALUES), dtype=np.uint32)  # [prompts and room, P]
        self._texts: list[str] = []  # normalised, of the prompts that passed
        self._ids: list[str] = []
        # Prompts of one template are compared with the same few again and again.
        self._known_shingles = lru_cache(maxsize=REMEMBERED)(shingles_of)

    def objection(self, prompt: Prompt) -> str | None:
        """See `PromptRule`. A prompt that passes is remembered."""
        text = normalize("\n".join(prompt["turns"]))
        shingles = shingles_of(text)
        signature = self._signature(shingles)
        bands = self._bands(signature)
        for number in self._candidates(bands, signature):
            similarity = jaccard(shingles, self._known_shingles(self._texts[number]))
            if similarity >= self.threshold:
                return f"{similarity:.2f} alike with {self._ids[number]!r}"
        self._remember(prompt["id"], text, bands, signature)
        return None

    def _signature(self, shingles: np.ndarray) -> np.ndarray:
        """The signature of the hashes of shingles, shape [P]."""
        rows = self._minhash.digest_matrix_from_flat_token_hashes(
            shingles, [0, len(shingles)], num_perm=VALUES, seed=SEED
        )
        return np.array(rows.to_rows()[0], dtype=np.uint32)

    def _bands(self, signature: np.ndarray) -> list[bytes]:
        """The bands of a signature, each with its number in front."""
        values = signature.tobytes()
        size = self._band_length * signature.itemsize
        bands = []
        for number in range(VALUES // self._band_length):
            start = number * size
            bands.append(bytes([number]) + values[start : start + size])
        return bands

    def _candidates(self, bands: list[bytes], signature: np.ndarray) -> list[int]:
        """Numbers of the remembered prompts that may be near-duplicates, oldest first."""
        found: set[int] = set()
        for band in bands:
            first = self._first.get(band)
            if first is not None:
                found.add(first)
                found.update(self._later.get(band, ()))
        if not found:
            return []
        numbers = np.array(sorted(found))  # [N]
        estimates = (self._signatures[numbers] == signature).mean(axis=1)  # [N]
        return numbers[estimates >= self.threshold - ESTIMATE_ERROR].tolist()

    def _remember(self, id: str, text: str, bands: list[bytes], signature: np.ndarray) -> None:
        """Let later prompts be compared with this one."""
        number = len(self._texts)
        if number == len(self._signatures):
            room = np.empty_like(self._signatures)
            self._signatures = np.concatenate([self._signatures, room])
        self._signatures[number] = signature
        self._texts.append(text)
        self._ids.append(id)
        for band in bands:
            if self._first.setdefault(band, number) != number:
                self._later.setdefault(band, []).append(number)


def band_length(threshold: float) -> int:
    """How many values of a signature make a band.

    Longer bands have fewer false candidates, and miss more.

    Args:
        threshold: Jaccard similarity of two texts.

    Returns:
        The longest with which at most `MISSED` of such pairs share no band.
    """
    lengths = [1]
    for length in range(2, VALUES + 1):
        bands = VALUES // length
        missed = (1 - threshold**length) ** bands
        if missed <= MISSED:
            lengths.append(length)
    return max(lengths)


def shingles_of(text: str) -> np.ndarray:
    """Cut a text into overlapping pieces of 5 letters.

    Args:
        text: normalised.

    Returns:
        A 64-bit hash of each different piece, ascending, shape [S]; of the text itself where it
        is shorter.
    """
    letters = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    pieces = max(len(letters) - SHINGLE + 1, 1)
    hashes = np.zeros(pieces, dtype=np.uint64)
    for place in range(min(SHINGLE, len(letters))):
        hashes = hashes * FACTOR + letters[place : place + pieces]
    # Neighbouring letters differ in few bits; MinHash needs all of them to differ.
    hashes = (hashes ^ (hashes >> HALF)) * LAST_FACTOR
    hashes = np.sort(hashes ^ (hashes >> HALF))
    # np.unique takes five times as long.
    is_new = np.concatenate([[True], hashes[1:] != hashes[:-1]])
    return hashes[is_new]


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """How much two sets have in common.

    Args:
        first: different hashes, at least one.
        second: different hashes, at least one.

    Returns:
        The share of their common elements among all of both, between 0 and 1.
    """
    common = len(np.intersect1d(first, second, assume_unique=True))
    return common / (len(first) + len(second) - common)
