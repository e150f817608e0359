"""What a stage measures, one cell after the other, and the JSON lines that it leaves.

A line is `{"stage", "name", "result", "why"}`. A result is null where nothing was measured, and
`why` says the reason. A stage begins with the names of all its cells, so that those that were never
reached are known.
"""

import gc
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

MOST_TEXT = 1500  # characters of an error that are kept
PLANNED = "planned"


@dataclass(frozen=True)
class Setting:
    """Where and how a stage runs.

    Args:
        device: what computes.
        rehearse: toy sizes.
        seconds: that the stage has.
        folder: for files.
        target: of the reference head: a name, or the folder of its pieces.
        talks: conversations made before; None to make them.
    """

    device: torch.device
    rehearse: bool
    seconds: float
    folder: Path
    target: str = "smollm2"
    talks: Path | None = None


@dataclass(frozen=True)
class Cell:
    """One thing to be measured.

    Args:
        name: says what it is, in words.
        measure: its figures; raises where there are none.
    """

    name: str
    measure: Callable[[], dict]


class Records:
    """A file of JSON lines, each written as soon as it is known."""

    def __init__(self, file: Path, stage: str):
        self.file = file
        self.stage = stage

    def write(self, record: dict) -> None:
        """Append a line, here and on the screen."""
        line = json.dumps({"stage": self.stage} | record)
        print(line, flush=True)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def result(self, name: str, result: Any, why: str | None = None) -> None:
        """The figures of a cell, or why there are none."""
        assert (result is None) == (why is not None), "what is null has a reason"
        self.write({"name": name, "result": result, "why": why})


def read_records(file: Path) -> list[dict]:
    """The whole lines of a file; a last one that was cut off does not count."""
    *lines, _ = file.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def run_cells(cells: list[Cell], records: Records, facts: dict) -> None:
    """Measure every cell; one that fails does not take the others along.

    Args:
        cells: in the order of their worth.
        records: where they are written.
        facts: of the machine, written in front.
    """
    records.write({PLANNED: [cell.name for cell in cells]} | facts)
    for cell in cells:
        try:
            result = cell.measure()
        except Exception as error:  # a broken cell must not hide the others
            records.result(cell.name, None, f"{type(error).__name__}: {error}"[:MOST_TEXT])
        else:
            records.result(cell.name, result)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def missing(records: Iterable[dict], stage: str) -> list[str]:
    """The planned cells of a stage that have no record."""
    planned: list[str] = []
    seen = set()
    for record in records:
        if record["stage"] == stage:
            planned = record.get(PLANNED, planned)
            seen.add(record.get("name"))
    return [name for name in planned if name not in seen]
