"""step.json: what a step made, of what, by which settings; and what that means for the next run.

A step is done where its settings and inputs are those of its record. Inputs are compared by their
content: a step that ran again and gave the same leaves those after it done.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from eagle_hf.data.manifest import library_versions, write_whole

RECORD = "step.json"
FORMAT = 1

# The states of a record.
BEGUN = "begun"
DONE = "done"

# What a run finds of a step.
IS_DONE = "done"
BEGINS = "begins"
GOES_ON = "goes on"
AGAIN = "runs again"
WAITS = "waits for"


@dataclass
class StepRecord:
    """What stands in step.json.

    Attributes:
        step: its name.
        settings: what its result depends on, by whole names such as `answers.max_new_tokens`.
        inputs: fingerprint of everything it read.
        state: "begun" or "done".
        output: fingerprint of the file that later steps read; None where there is none.
        metrics: its counts.
        versions: of the libraries that made it.
        format: of this file.
    """

    step: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    state: str = BEGUN
    output: str | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=library_versions)
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Write the record; it appears whole or not at all.

        Args:
            folder: of the step, which exists.
        """
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"
        write_whole(folder / RECORD, text)

    @classmethod
    def read(cls, folder: Path) -> "StepRecord | None":
        """Read the record of a folder.

        Args:
            folder: of the step.

        Returns:
            The record; None where there is none.

        Raises:
            ValueError: the file is no record, or a newer version wrote it.
        """
        path = folder / RECORD
        if not path.exists():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            found = values.get("format")
        except (ValueError, AttributeError) as error:
            raise ValueError(
                f"{path} is no record of a step ({error}); move {folder} away and run again"
            ) from error
        if found != FORMAT:
            raise ValueError(
                f"{path} has the format {found!r} and this version reads {FORMAT}; update eagle_hf "
                "or choose another output_dir"
            )
        return cls(**values)


@dataclass(frozen=True)
class Verdict:
    """What is to be done about a step, and why.

    Attributes:
        action: IS_DONE, BEGINS, GOES_ON, AGAIN or WAITS.
        reasons: sentences without a subject: "answers.max_new_tokens was 128 and is 256".
    """

    action: str
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The verdict as a run prints it."""
        if not self.reasons:
            return self.action
        joints = {AGAIN: " because ", WAITS: " "}
        return self.action + joints.get(self.action, ": ") + " and ".join(self.reasons)


def changed_settings(
    old: Mapping[str, Any], new: Mapping[str, Any], defaults: Mapping[str, Any]
) -> list[str]:
    """Compare the settings of a record with those of this run.

    Args:
        old: of the record. What it lacks had its default, because it was added later.
        new: of this run.
        defaults: of all settings that have one.

    Returns:
        One sentence for each that changed.
    """
    reasons = []
    for name in sorted(old.keys() | new.keys()):
        was = old.get(name, defaults.get(name))
        now = new.get(name, defaults.get(name))
        if was != now:
            reasons.append(f"{name} was {_shown(was)} and is {_shown(now)}")
    return reasons


def changed_inputs(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Compare what a record's step read with what this run would read.

    Args:
        old: fingerprints of the record.
        new: fingerprints of this run.

    Returns:
        One sentence for each that changed.
    """
    names = sorted(old.keys() | new.keys())
    return [f"{name} changed" for name in names if old.get(name) != new.get(name)]


def file_fingerprint(path: Path) -> str:
    """The SHA-256 of a file's content; a file that this process has read is not read again."""
    status = path.stat()
    return _file_digest(path, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _file_digest(path: Path, inode: int, size: int, changed_ns: int) -> str:
    """The SHA-256 of a file that is this one, of this size, last changed at this time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def set_aside(folder: Path) -> Path | None:
    """Rename a folder, so that a new one may take its place and nothing is lost.

    Args:
        folder: exists.

    Returns:
        Its new path: the first of `answers.old-1`, `answers.old-2`, ... that is free. None
        where it held nothing but its record, and stays.
    """
    if all(path.name == RECORD for path in folder.iterdir()):
        return None
    number = 1
    while True:
        target = folder.with_name(f"{folder.name}.old-{number}")
        if not target.exists():
            folder.rename(target)
            return target
        number += 1


def _shown(value: Any) -> str:
    """A setting as JSON shows it, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
