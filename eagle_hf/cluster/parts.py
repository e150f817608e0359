"""Finished turns of workers, on storage that the nodes share.

A worker keeps the turns of its unit on its node's own disk, and adds each to a part on the shared
storage at every sync. Where its node dies, the part is what the next worker, or the next run, goes
on from. Once the driver has a whole unit, its parts are removed. In a folder a part is one file
that grows. Object stores cannot add to an object, so there every sync writes an object of its own.

    PARTS/<unit>/<attempt>-<worker>.jsonl            in a folder
    PARTS/<unit>/<attempt>-<worker>-000001.jsonl     in an object store

A line is a turn with its prompt, and the digest of the turn before it. Two workers may have
answered one prompt, because Ray cannot tell a node that is slow from one that is dead. Their turns
are never mixed: a turn is taken only behind the very turn that it followed.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from eagle_hf.data import Prompt, TurnStore
from eagle_hf.data.answers import FinishedTurn
from eagle_hf.data.rows import question_of

ENDING = ".jsonl"


class PartFolder:
    """The parts of a run.

    Args:
        url: a folder that all nodes see, or what fsspec opens.

    Raises:
        ValueError: the package for this kind of URL is not installed.
    """

    def __init__(self, url: str):
        self.url = url
        try:
            fs, path = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ValueError(f"{url} cannot be opened ({error}); install that package") from error
        self.fs: AbstractFileSystem = fs
        self.path: str = path.rstrip("/")
        self.is_local = isinstance(fs, LocalFileSystem)

    def names(self, unit: str = "") -> list[str]:
        """Paths of the parts of a unit, or of all units, in the order of their attempts."""
        folder = f"{self.path}/{unit}".rstrip("/")
        self.fs.invalidate_cache(folder)
        return sorted(name for name in self.fs.find(folder) if name.endswith(ENDING))

    def turns(self, unit: str = "") -> Iterator[tuple[Prompt, FinishedTurn, str]]:
        """Read parts.

        Args:
            unit: whose; default: of all units.

        Yields:
            `(prompt, turn, digest of the turn before it)`. A line that a dying worker left half
            written is the last of its file, and is left out.
        """
        for name in self.names(unit):
            for line in self.fs.cat_file(name).split(b"\n")[:-1]:
                row = json.loads(line)
                yield row["prompt"], FinishedTurn(**row["turn"]), row["after"]

    def remove(self, unit: str = "") -> None:
        """Remove the parts of a unit, or of all: their turns are kept elsewhere now."""
        for name in self.names(unit):
            self.fs.rm_file(name)

    def put(self, path: Path, url: str) -> None:
        """Copy a local file to the same storage.

        Args:
            path: of the file.
            url: of the copy.
        """
        self.fs.put_file(str(path), url)


class PartStore(TurnStore):
    """The turns of one unit: on this node's disk, and at every sync in a part.

    Args:
        folder: on this node's disk.
        parts: on the shared storage.
        unit: whose turns these are.
    """

    def __init__(self, folder: str | Path, parts: PartFolder, unit: str):
        super().__init__(folder)
        self._parts = parts
        attempt = len(parts.names(unit))
        self._name = f"{parts.path}/{unit}/{attempt:06d}-{uuid.uuid4().hex[:8]}"
        self._objects = 0
        self._unwritten: list[str] = []

    def add(self, prompt: Prompt, turn: FinishedTurn) -> bool:
        """Keep a finished turn; it is in the part from the next sync on."""
        is_new = super().add(prompt, turn)
        if is_new:
            row = {"prompt": prompt, "turn": asdict(turn), "after": digest_before(self, turn)}
            self._unwritten.append(json.dumps(row) + "\n")
        return is_new

    def sync(self) -> None:
        """Write what is new to the part.

        Raises:
            ValueError: a disk or the shared storage cannot be written.
        """
        super().sync()
        if not self._unwritten:
            return
        data = "".join(self._unwritten).encode("ascii")
        try:
            self._write(data)
        except OSError as error:
            raise ValueError(
                f"{self._parts.url} cannot be written ({error}); a rerun goes on where this one "
                "stopped"
            ) from error
        self._unwritten = []

    def _write(self, data: bytes) -> None:
        """Add lines to the part."""
        if not self._parts.is_local:
            self._objects += 1
            self._parts.fs.pipe_file(f"{self._name}-{self._objects:06d}{ENDING}", data)
            return
        path = Path(self._name + ENDING)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def take_turns(
    store: TurnStore,
    turns: Iterator[tuple[Prompt, FinishedTurn, str]],
    model: str,
    asked: Sequence[Prompt] = (),
) -> int:
    """Add the turns of parts to a store.

    Args:
        store: what it holds already stays.
        turns: of `PartFolder.turns`.
        model: who answers now.
        asked: prompts of this run. An answer to another question under one of their ids is left.

    Returns:
        How many were added. A turn that is there, or that followed another answer than the one
        that is there, is not.

    Raises:
        ValueError: another model gave an answer.
    """
    questions = {prompt["id"]: prompt for prompt in asked}
    added = 0
    for prompt, turn, after in turns:
        if turn.model != model:
            raise ValueError(
                f"the parts of a former run hold answers of {turn.model!r}, and {model!r} answers "
                "now; delete the folder of parts, or give cluster.storage another one"
            )
        if question_of(questions.get(turn.id, prompt)) != question_of(prompt):
            continue
        is_next = len(store.turns(turn.id)) == turn.turn
        if is_next and digest_before(store, turn) == after:
            added += store.add(prompt, turn)
    store.sync()
    return added


def digest_before(store: TurnStore, turn: FinishedTurn) -> str:
    """A digest of the turn before a turn; empty for the first."""
    if turn.turn == 0:
        return ""
    before: dict[str, Any] = asdict(store.turns(turn.id)[turn.turn - 1])
    return hashlib.sha256(json.dumps(before, sort_keys=True).encode("ascii")).hexdigest()
