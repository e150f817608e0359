"""turns.sqlite: finished turns, each on its own as soon as it is finished.

A turn is committed before the next one is looked at, so a killed process loses none. `sync` makes
what is committed survive a power cut too; whoever collects calls it once a second. A turn that is
there is never replaced: one prompt has one answer.

The key is (id, turn). Beside the turns lies the question of every prompt, so that an answer is
never taken for one to another question under the same id.
"""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any

from eagle_hf.data.answers.turns import FinishedTurn
from eagle_hf.data.rows import Prompt

TURNS = "turns.sqlite"
FORMAT = 2  # of the file, as SQLite's user_version; 1 had no tool_calls

# One transaction: a process that is killed here leaves an empty file, which is opened as new.
SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE prompts (id TEXT PRIMARY KEY, prompt TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE turns (
    id TEXT NOT NULL,
    turn INTEGER NOT NULL,
    text TEXT NOT NULL,
    reasoning TEXT NOT NULL,
    finish_reason TEXT NOT NULL,
    prompt_ids TEXT,
    prompt_ids_from TEXT NOT NULL,
    response_ids TEXT,
    response_ids_from TEXT NOT NULL,
    prompt_tokens INTEGER,
    sampled_tokens INTEGER,
    model TEXT NOT NULL,
    tool_calls TEXT,
    PRIMARY KEY (id, turn)
);
PRAGMA user_version = {FORMAT};
COMMIT;
"""
UPGRADE = f"""
BEGIN IMMEDIATE;
ALTER TABLE turns ADD COLUMN tool_calls TEXT;
PRAGMA user_version = {FORMAT};
COMMIT;
"""
COLUMNS = [field.name for field in fields(FinishedTurn)]
LIST_COLUMNS = ("prompt_ids", "response_ids", "tool_calls")  # kept as JSON


class TurnStore:
    """Finished turns by (id, turn), in one SQLite file.

    Args:
        folder: that the file lies in, on a local disk. It is made where it does not exist.

    Raises:
        ValueError: the file is no store, a newer version wrote it, or the disk is not a local one.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / TURNS
        try:
            self._database = sqlite3.connect(self.path)
        except sqlite3.Error as error:
            raise ValueError(f"{self.path} cannot be opened ({error})") from error
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._database.close()
            raise ValueError(
                f"{self.path} is no store of turns ({error}); choose another folder"
            ) from error
        except ValueError:
            self._database.close()
            raise

    def __enter__(self) -> "TurnStore":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _prepare(self) -> None:
        """Check the format of an old file, and make the tables of a new one."""
        found = self._value("PRAGMA user_version")
        is_new = found == 0 and self._value("SELECT count(*) FROM sqlite_master") == 0
        is_known = is_new or found in (1, FORMAT)
        if not is_known:
            raise ValueError(
                f"{self.path} has the format {found} and this version reads {FORMAT}; "
                "update eagle_hf or choose another folder"
            )
        # Readers and the writer do not wait for each other, and a commit need not wait for the
        # disk. Both modes need memory that processes share, which network file systems lack.
        mode = self._value("PRAGMA journal_mode = WAL")
        if mode != "wal":
            raise ValueError(
                f"{self.path} lies on a file system without shared memory; choose a local folder"
            )
        self._database.execute("PRAGMA synchronous = NORMAL")
        if is_new:
            self._database.executescript(SCHEMA)
        elif found == 1:
            self._database.executescript(UPGRADE)

    def _value(self, statement: str) -> Any:
        """The one value that a statement gives."""
        return self._database.execute(statement).fetchone()[0]

    def add(self, prompt: Prompt, turn: FinishedTurn) -> bool:
        """Keep a finished turn. It survives the end of this process once this returns.

        Args:
            prompt: that it answers.
            turn: any turn of that prompt.

        Returns:
            Whether it was kept: False where the turn has an answer already, which stays.

        Raises:
            ValueError: the file cannot be written.
        """
        row = [_packed(getattr(turn, name)) for name in COLUMNS]
        marks = ", ".join("?" * len(row))
        try:
            with self._database:  # one transaction
                self._database.execute(
                    "INSERT INTO prompts VALUES (?, ?) ON CONFLICT (id) DO NOTHING",
                    (prompt["id"], json.dumps(prompt, ensure_ascii=False)),
                )
                inserted = self._database.execute(
                    f"INSERT INTO turns ({', '.join(COLUMNS)}) VALUES ({marks}) "
                    "ON CONFLICT (id, turn) DO NOTHING",
                    row,
                )
        except sqlite3.OperationalError as error:
            raise self._unwritable(error) from error
        return inserted.rowcount == 1

    def sync(self) -> None:
        """Write what is committed to the disk itself, so that it survives a power cut.

        Raises:
            ValueError: the disk cannot be written.
        """
        # A checkpoint is what makes SQLite wait for the disk in this mode.
        try:
            self._database.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.OperationalError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: sqlite3.Error) -> ValueError:
        """What a full or broken disk means for the run."""
        return ValueError(
            f"{self.path} cannot be written ({error}); a rerun goes on where this one stopped"
        )

    def model(self) -> str | None:
        """Whose answers are kept, None where there are none yet."""
        found = self._database.execute("SELECT model FROM turns LIMIT 1").fetchone()
        return None if found is None else found[0]

    def prompt(self, id: str) -> Prompt | None:
        """The prompt that has turns under an id, None where there are none."""
        found = self._database.execute("SELECT prompt FROM prompts WHERE id = ?", (id,)).fetchone()
        return None if found is None else json.loads(found[0])

    def turns(self, id: str) -> list[FinishedTurn]:
        """The finished turns of a prompt, in their order."""
        rows = self._database.execute(
            f"SELECT {', '.join(COLUMNS)} FROM turns WHERE id = ? ORDER BY turn", (id,)
        )
        return [_unpacked(row) for row in rows]

    def prompts(self) -> Iterator[Prompt]:
        """Every prompt that has turns, by its id; read while they are used."""
        for row in self._database.execute("SELECT prompt FROM prompts ORDER BY id"):
            yield json.loads(row[0])

    def close(self) -> None:
        """Write everything to disk and close the file. Other processes may open it then."""
        self._database.close()


def _packed(value: Any) -> Any:
    """A field of a turn as SQLite keeps it."""
    return json.dumps(value) if isinstance(value, list) else value


def _unpacked(row: tuple) -> FinishedTurn:
    """A turn from the columns of its row."""
    values = dict(zip(COLUMNS, row, strict=True))
    for name in LIST_COLUMNS:
        if values[name] is not None:
            values[name] = json.loads(values[name])
    return FinishedTurn(**values)
