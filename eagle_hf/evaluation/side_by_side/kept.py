"""Answers of all methods, kept as they are made: an interrupted run goes on behind them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eagle_hf.data.rows import Prompt
from eagle_hf.decoding.stats import DecodingStats


@dataclass(frozen=True)
class Setting:
    """How a group is answered: sampled at a temperature (0 is greedy), so many rows at a time."""

    temperature: float = 0.0
    batch: int = 1


@dataclass
class GroupAnswer:
    """What one method made of one group of prompts.

    Attributes:
        method: its name.
        setting: how.
        category: of the prompts.
        prompts: their ids.
        seconds: of the whole call.
        tokens: new ones of all rows.
        stats: rounds and acceptance.
        same: rows whose answers equal plain decoding's.
        ties: rows that differ by a tie.
    """

    method: str
    setting: Setting
    category: str
    prompts: list[str]
    seconds: float
    tokens: int
    stats: DecodingStats
    same: int
    ties: int


class KeptAnswers:
    """Answers of a run, a JSON line each, behind a line that says what was asked.

    Args:
        file: where; answers that are there are taken over.
        asked: what decides the answers.

    Attributes:
        asked: the same, as JSON holds it.

    Raises:
        ValueError: The file holds answers to something else.
    """

    def __init__(self, file: Path, asked: dict[str, Any]):
        self.file = file
        self.asked = json.loads(json.dumps(asked, default=str))
        self.answers: list[GroupAnswer] = []
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"asked": self.asked}) + "\n")
            return
        head, *lines = file.read_text().splitlines()
        if json.loads(head)["asked"] != self.asked:
            raise ValueError(
                f"{file} holds answers to other prompts, methods or settings; remove it, or give "
                "another folder"
            )
        for line in lines:
            entries = json.loads(line)
            self.answers += [_answer_of(entry) for entry in entries]

    def add(self, answers: list[GroupAnswer]) -> None:
        """Keep a group's answers: one line, whole or not at all."""
        self.answers += answers
        with self.file.open("a") as lines:
            lines.write(json.dumps([asdict(answer) for answer in answers]) + "\n")

    def holds(self, setting: Setting, prompts: Sequence[Prompt]) -> bool:
        """Whether a group was answered already."""
        ids = [prompt["id"] for prompt in prompts]
        return any((found.setting, found.prompts) == (setting, ids) for found in self.answers)


def _answer_of(entry: dict[str, Any]) -> GroupAnswer:
    """An answer as it was kept."""
    fields = dict(entry)
    fields["stats"] = DecodingStats(**entry["stats"])
    fields["setting"] = Setting(**entry["setting"])
    return GroupAnswer(**fields)
