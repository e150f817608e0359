"""Versions of a head on disk, and which one is current.

    OUT/versions/0001, 0002, ...    saved heads, as vLLM and SGLang load them
    OUT/current -> versions/0002    switched at once: there is always a whole head under this name
    OUT/history.jsonl               a line for every finished cycle

`current` may be set back by hand; the next cycle begins with what it says.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from eagle_hf.data.manifest import write_whole

VERSIONS = "versions"
CURRENT = "current"
HISTORY = "history.jsonl"
UNFINISHED = ".part"  # behind the name of a folder that is not whole


class Versions:
    """The versions in an output folder.

    Args:
        folder: of the output.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, number: int) -> Path:
        """The folder of a version."""
        return self.folder / VERSIONS / f"{number:04d}"

    def numbers(self) -> list[int]:
        """The versions that are there, in order."""
        found = []
        for path in (self.folder / VERSIONS).glob("*"):
            if path.name.isdigit():
                found.append(int(path.name))
        return sorted(found)

    def current(self) -> int:
        """The number of the current version.

        Raises:
            ValueError: `current` is no link to a version.
        """
        link = self.folder / CURRENT
        name = Path(os.readlink(link)).name if link.is_symlink() else ""
        if not name.isdigit() or int(name) not in self.numbers():
            known = ", ".join(self.path(number).name for number in self.numbers()) or "none"
            raise ValueError(
                f"{link} leads to no version; those in {self.folder / VERSIONS} are {known}: "
                f"ln -sfn {VERSIONS}/NUMBER {link}"
            )
        return int(name)

    def next_number(self) -> int:
        """The number of the next version; none is given twice, even after one was deleted."""
        published = [line["version"] for line in self.history() if line["version"] is not None]
        return max([0, *self.numbers(), *published]) + 1

    def adopt(self, folder: Path, number: int) -> None:
        """Make a saved head a version; nothing where that was done before.

        Args:
            folder: of the head, on the same file system.
            number: of the version.
        """
        path = self.path(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            folder.rename(path)

    def switch(self, number: int) -> None:
        """Make a version the current one."""
        link = self.folder / CURRENT
        scratch = link.with_name(f"{CURRENT}{UNFINISHED}")
        scratch.unlink(missing_ok=True)
        scratch.symlink_to(Path(VERSIONS, self.path(number).name), target_is_directory=True)
        os.replace(scratch, link)

    def prune(self, keep: int) -> list[int]:
        """Delete all but the last versions, and never the current one.

        Args:
            keep: how many stay.

        Returns:
            Those that were deleted.
        """
        current = self.current()
        others = [number for number in self.numbers() if number != current]
        newest = others[max(0, len(others) - keep + 1) :]
        deleted = [number for number in others if number not in newest]
        for number in deleted:
            # Under another name first: a half-deleted folder is no version.
            doomed = self.path(number).with_suffix(UNFINISHED)
            self.path(number).rename(doomed)
        for doomed in (self.folder / VERSIONS).glob(f"*{UNFINISHED}"):
            shutil.rmtree(doomed)
        return deleted

    def history(self) -> list[dict[str, Any]]:
        """The finished cycles, in their order.

        Raises:
            ValueError: a line of the file is no JSON.
        """
        path = self.folder / HISTORY
        if not path.exists():
            return []
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except ValueError as error:
            raise ValueError(f"{path} was changed ({error}); mend the line or delete it") from error

    def record(self, line: dict[str, Any]) -> None:
        """Add a finished cycle to the history; nothing where it is there.

        Args:
            line: with the cycle's number under `cycle`.
        """
        lines = self.history()
        if any(known["cycle"] == line["cycle"] for known in lines):
            return
        text = "".join(json.dumps(one) + "\n" for one in [*lines, line])
        write_whole(self.folder / HISTORY, text)
