"""Answers of all methods, kept as they are made: an interrupted run goes on behind them.

One JSON line a group, or a failure, behind a line that says what was asked.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
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
        prompt_tokens: of the longest prompt.
        errors: why requests to a server failed, one a row.
        entropy: of plain decoding, the mean entropy of the target's next-token distribution over
            the answers, in nats; None of other methods.
        between: of plain decoding, seconds that the group took besides the calls of all methods.
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
    prompt_tokens: int = 0
    errors: list[str] = field(default_factory=list)
    entropy: float | None = None
    between: float = 0.0

    @property
    def group(self) -> tuple[Setting, tuple[str, ...]]:
        """What was answered: the same of all methods."""
        return self.setting, tuple(self.prompts)

    @property
    def finished(self) -> int:
        """Rows that were answered."""
        return len(self.prompts) - len(self.errors)

    @property
    def speed(self) -> float:
        """New tokens a second."""
        return self.tokens / self.seconds


class KeptAnswers:
    """Answers of a run, in a file.

    Args:
        file: where; answers that are there are taken over.
        asked: what decides the answers.

    Attributes:
        asked: the same, as JSON holds it.
        failures: why a method was given up in a setting. It stays so in this file.

    Raises:
        ValueError: The file holds answers to something else, or is damaged.
    """

    def __init__(self, file: Path, asked: dict[str, Any]):
        self.file = file
        self.asked = json.loads(json.dumps(asked, default=str))
        self.failures: dict[tuple[str, Setting], str] = {}
        self._answers: dict[tuple[str, Setting, tuple[str, ...]], GroupAnswer] = {}
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"asked": self.asked}) + "\n")
            return
        head, *lines = _whole_lines(file)
        if head.get("asked") != self.asked:
            raise ValueError(
                f"{file} holds answers to other prompts, methods or settings "
                f"({_differing(head.get('asked'), self.asked)}); remove it, or give another folder"
            )
        for line in lines:
            self._take(line)

    @property
    def answers(self) -> list[GroupAnswer]:
        """All answers, in the order in which they were made."""
        return list(self._answers.values())

    def add(self, answers: Iterable[GroupAnswer]) -> None:
        """Keep a group's answers, in place of former ones of the same methods."""
        answers = list(answers)
        for answer in answers:
            self._put(answer)
        self._write([asdict(answer) for answer in answers])

    def fail(self, method: str, setting: Setting, reason: str) -> None:
        """Keep that a method was given up in a setting."""
        self.failures[method, setting] = reason
        failure = {"method": method, "setting": asdict(setting), "reason": reason}
        self._write({"failed": failure})

    def holds(
        self, setting: Setting, prompts: Sequence[Prompt], methods: Iterable[str] = ("plain",)
    ) -> bool:
        """Whether a group was answered by all these methods."""
        ids = tuple(prompt["id"] for prompt in prompts)
        return all((method, setting, ids) in self._answers for method in methods)

    def _put(self, answer: GroupAnswer) -> None:
        """Remember an answer; a newer one goes behind all others."""
        key = (answer.method, *answer.group)
        self._answers.pop(key, None)
        self._answers[key] = answer

    def _take(self, line: Any) -> None:
        """Read a line of the file."""
        if isinstance(line, dict):
            failure = line["failed"]
            setting = Setting(**failure["setting"])
            self.failures[failure["method"], setting] = failure["reason"]
            return
        for entry in line:
            self._put(_answer_of(entry))

    def _write(self, line: Any) -> None:
        """Append a line."""
        with self.file.open("a") as lines:
            lines.write(json.dumps(line) + "\n")


def _whole_lines(file: Path) -> list[Any]:
    """The lines of a file, parsed; one that was cut off while it was written is taken away."""
    text = file.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.write_text(whole)
    try:
        lines = [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise ValueError(
            f"{file} is damaged ({error}); remove it, or give another folder"
        ) from error
    if not lines:
        raise ValueError(f"{file} is empty; remove it, or give another folder")
    return lines


def _differing(kept: Any, asked: dict[str, Any]) -> str:
    """What was asked otherwise, by name."""
    if not isinstance(kept, dict):
        return "it does not say what was asked"
    names = [name for name in {**kept, **asked} if kept.get(name) != asked.get(name)]
    return "other " + ", ".join(names)


def _answer_of(entry: dict[str, Any]) -> GroupAnswer:
    """An answer as it was kept."""
    fields = dict(entry)
    fields["stats"] = DecodingStats(**entry["stats"])
    fields["setting"] = Setting(**entry["setting"])
    return GroupAnswer(**fields)
