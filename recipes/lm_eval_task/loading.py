"""The questions of the task `reading`, wherever lm-eval is started."""

import json
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

QUESTIONS = Path(__file__).parent / "questions.jsonl"


def load(**metadata: Any) -> DatasetDict:
    """Read the questions.

    Args:
        metadata: of the task, which lm-eval hands over; it changes nothing.
    """
    lines = QUESTIONS.read_text(encoding="utf-8").splitlines()
    return DatasetDict({"test": Dataset.from_list([json.loads(line) for line in lines])})
