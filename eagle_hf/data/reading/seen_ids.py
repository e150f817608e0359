"""Which ids were used before, in a few bytes for each.

A gigabyte of rows may have millions of ids. Only a 64-bit hash of each is kept, in one array:

    slots    0   0  h("a")  h("c")  0  h("b")  0   0      "c" belongs where "a" is, and goes behind

Two different ids among ten million share a hash with a probability of 3 in a million.
"""

from array import array
from hashlib import blake2b

FIRST_SLOTS = 1024
EMPTY = 0
# Fuller than this, the way to an empty slot becomes long.
FULLEST = 0.6


class SeenIds:
    """Ids that can be added, and asked for by adding them again."""

    def __init__(self) -> None:
        self._slots = array("Q", [EMPTY]) * FIRST_SLOTS
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, id: str) -> bool:
        """Add an id.

        Args:
            id: any text that UTF-8 can encode.

        Returns:
            Whether it is new.
        """
        is_new = self._insert(_hash(id))
        if self._count > FULLEST * len(self._slots):
            self._grow()
        return is_new

    def _insert(self, value: int) -> bool:
        """Put a hash into its slot, or the next empty one; False where it is there already."""
        place = value % len(self._slots)
        while self._slots[place] != EMPTY:
            if self._slots[place] == value:
                return False
            place = (place + 1) % len(self._slots)
        self._slots[place] = value
        self._count += 1
        return True

    def _grow(self) -> None:
        """Twice as many slots."""
        old = self._slots
        self._slots = array("Q", [EMPTY]) * (2 * len(old))
        self._count = 0
        for value in old:
            if value != EMPTY:
                self._insert(value)


def _hash(id: str) -> int:
    """The hash of an id; never the value of an empty slot."""
    digest = blake2b(id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1
