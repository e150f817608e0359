"""pool.sqlite: the conversations of a log, how far its files were read, and the running cycle.

What belongs together is written in one transaction: lines of a file with the mark behind them, a
finished cycle with what it has learnt. So a killed call neither loses a conversation nor takes one
twice. Conversations are numbered as they arrive.

    1 .............. older .... judged ............ newest
      older ones,     |  not yet   |  new: of them the
      replayed        |  learnt    |  last are held out
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from eagle_hf.data.rows import Example
from eagle_hf.following.answers import answer_spans
from eagle_hf.following.log_files import Mark

POOL = "pool.sqlite"
FORMAT = 1  # as SQLite's user_version
SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE conversations (
    arrival INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    digest TEXT NOT NULL UNIQUE,
    prompt TEXT,
    input_ids BLOB NOT NULL,
    loss_mask BLOB NOT NULL
);
CREATE TABLE marks (
    path TEXT PRIMARY KEY, offset INTEGER NOT NULL, lines INTEGER NOT NULL, tail TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
PRAGMA user_version = {FORMAT};
COMMIT;
"""


class Arrival(NamedTuple):
    """A conversation of the pool without its tokens.

    Attributes:
        number: in the order of arrival.
        prompt: digest of what was asked; None where no answer has rounds to measure.
    """

    number: int
    prompt: str | None


class Pool:
    """What is remembered between the calls.

    Args:
        folder: that the file lies in.

    Raises:
        ValueError: the file is no pool, or a newer version wrote it.
    """

    def __init__(self, folder: Path):
        self.path = folder / POOL
        try:
            self._database = sqlite3.connect(self.path, isolation_level=None)
            found = self._value("PRAGMA user_version")
            is_new = found == 0 and self._value("SELECT count(*) FROM sqlite_master") == 0
            if is_new:
                self._database.executescript(SCHEMA)
        except sqlite3.Error as error:
            raise ValueError(
                f"{self.path} cannot be opened ({error}); is its disk full, or the file another "
                "program's? Nothing was changed"
            ) from error
        if not is_new and found != FORMAT:
            self._database.close()
            raise ValueError(
                f"{self.path} has the format {found} and this version reads {FORMAT}; update "
                "eagle_hf or choose another folder"
            )

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @contextmanager
    def transaction(self):
        """Write all that is written inside the block, or nothing of it.

        Raises:
            ValueError: the disk is full, or fails.
        """
        try:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise ValueError(
                f"{self.path} cannot be written ({error}); free disk space, then run the same "
                "command: it goes on where this one stopped"
            ) from error

    def add(self, examples: Iterable[Example]) -> int:
        """Take conversations in, inside a transaction.

        Args:
            examples: in the order of their arrival.

        Returns:
            How many were new: one that is there, token by token, is not taken twice.
        """
        added = 0
        for example in examples:
            ids = numpy.array(example["input_ids"], dtype=numpy.int32).tobytes()
            mask = numpy.array(example["loss_mask"], dtype=numpy.bool_).tobytes()
            digest = hashlib.sha256(ids + mask).hexdigest()
            row = (example["id"], digest, _prompt_digest(example), ids, mask)
            done = self._database.execute(
                "INSERT INTO conversations (id, digest, prompt, input_ids, loss_mask) "
                "VALUES (?, ?, ?, ?, ?) ON CONFLICT (digest) DO NOTHING",
                row,
            )
            added += done.rowcount
        return added

    def marks(self) -> list[Mark]:
        """How far every file was read."""
        rows = self._database.execute("SELECT path, offset, lines, tail FROM marks")
        return [Mark(*row) for row in rows]

    def set_mark(self, mark: Mark) -> None:
        """Remember how far a file was read, inside a transaction."""
        self._database.execute("INSERT OR REPLACE INTO marks VALUES (?, ?, ?, ?)", mark)

    def fact(self, name: str, default: Any) -> Any:
        """A remembered value, the default where there is none."""
        row = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return default if row is None else json.loads(row[0])

    def set_facts(self, **values: Any) -> None:
        """Remember values, inside a transaction."""
        for name, value in values.items():
            self._database.execute(
                "INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value))
            )

    def older_up_to(self) -> int:
        """The last conversation that is only replayed."""
        return self.fact("older_up_to", 0)

    def judged_up_to(self) -> int:
        """The last conversation that a finished cycle has used."""
        return self.fact("judged_up_to", 0)

    def arrivals(self, after: int) -> list[Arrival]:
        """The conversations behind a number, in their order."""
        rows = self._database.execute(
            "SELECT arrival, prompt FROM conversations WHERE arrival > ? ORDER BY arrival", (after,)
        )
        return [Arrival(*row) for row in rows]

    def older(self) -> list[Arrival]:
        """The conversations that are only replayed, in an order that is random and always the same.

        The order is that of their digests.
        """
        rows = self._database.execute(
            "SELECT arrival, prompt FROM conversations WHERE arrival <= ? ORDER BY digest",
            (self.older_up_to(),),
        )
        return [Arrival(*row) for row in rows]

    def examples(self, numbers: Sequence[int]) -> list[Example]:
        """Conversations by their numbers, in the order given."""
        examples: list[Example] = []
        for number in numbers:
            row = self._database.execute(
                "SELECT id, input_ids, loss_mask FROM conversations WHERE arrival = ?", (number,)
            ).fetchone()
            assert row is not None, f"conversation {number} left the pool while it was in use"
            ids = numpy.frombuffer(row[1], dtype=numpy.int32)
            mask = numpy.frombuffer(row[2], dtype=numpy.bool_)
            examples.append(
                {"id": row[0], "input_ids": ids.tolist(), "loss_mask": mask.astype(int).tolist()}
            )
        return examples

    def shrink(self, most_new: int, reservoir: int) -> None:
        """Keep the pool within its bounds, inside a transaction.

        The oldest of too many conversations become older ones. Of those, the ones with the smallest
        digests stay: a sample of all that ever came, each as likely as the other.

        Args:
            most_new: conversations that are not older ones.
            reservoir: older ones.
        """
        waiting = self.arrivals(self.older_up_to())
        if len(waiting) > most_new:
            self.set_facts(older_up_to=waiting[-most_new - 1].number)
        limit = self.older_up_to()
        self._database.execute(
            "DELETE FROM conversations WHERE arrival <= ? AND digest NOT IN "
            "(SELECT digest FROM conversations WHERE arrival <= ? ORDER BY digest LIMIT ?)",
            (limit, limit, reservoir),
        )

    def _value(self, statement: str) -> Any:
        """The one value that a statement gives."""
        return self._database.execute(statement).fetchone()[0]


def _prompt_digest(example: Example) -> str | None:
    """What was asked first; None where no answer has a prompt and two tokens."""
    spans = answer_spans(example)
    if not spans:
        return None
    asked = numpy.array(example["input_ids"][: spans[0][0]], dtype=numpy.int32)
    return hashlib.sha256(asked.tobytes()).hexdigest()
