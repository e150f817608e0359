"""User turns, bundled or from files and datasets; `magpie.py` samples some from the target itself.

Only user turns are kept (see `Prompt`): the answers must be the target's own.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from eagle_hf.data.prompt_rows import COLUMNS, parse_line, prompt_from_row
from eagle_hf.data.rows import Prompt, SkippedLine, first_reasons

T = TypeVar("T")


def bundled_prompts(name: str) -> Path:
    """Find a prompt set that comes with the package; bundled/SOURCES.md has origins and licences.

    Args:
        name: of the set, such as "train_math_reasoning_gym".

    Returns:
        A JSON-lines file for `read_prompts`.

    Raises:
        ValueError: no set has this name; the error lists the names.
    """
    folder = Path(str(resources.files("eagle_hf.data") / "bundled"))
    # A name that is not listed never becomes a path: "../x" is refused.
    names = sorted(file.stem for file in folder.glob("*.jsonl"))
    if name not in names:
        raise ValueError(f"no bundled prompts are called {name!r}; take one of {', '.join(names)}")
    return folder / f"{name}.jsonl"


def read_prompts(path: str | Path) -> tuple[list[Prompt], list[SkippedLine]]:
    """Read the prompts of a JSON-lines file. A bad line never stops the reading.

    Args:
        path: a file whose lines hold `turns`, `messages`, `conversations` (from/value), `prompt`,
            or `instruction` with an optional `input`.

    Returns:
        `(prompts, skipped)`: the prompts in order, and every line that gave none.

    Raises:
        ValueError: no line holds a prompt.
    """
    path = Path(path)
    collector = _Collector(path.stem)
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                collector.add(number, parse_line(line))
            except ValueError as error:
                collector.skip(number, error)
    return collector.result(f"lines of {path.name}")


def prompts_from_dataset(
    dataset: Iterable[Mapping[str, Any]], source: str = "dataset"
) -> tuple[list[Prompt], list[SkippedLine]]:
    """Read the prompts of a dataset, in the columns that `read_prompts` knows.

    Args:
        dataset: any iterable of rows: a `datasets.Dataset`, an `IterableDataset`, a list.
        source: of rows that do not name theirs; it begins their ids too.

    Returns:
        `(prompts, skipped)`: the prompts in order, and every row that gave none.

    Raises:
        ValueError: no row holds a prompt, or a mapping of splits arrives instead of one split.
    """
    # `load_dataset` without a split returns such a mapping; its keys would pass for rows.
    if isinstance(dataset, Mapping):
        raise ValueError(
            f"a mapping of splits {sorted(map(str, dataset))} arrived; "
            "pass one of them, dataset['train']"
        )
    collector = _Collector(source)
    for number, row in enumerate(dataset):
        try:
            collector.add(number, row)
        except ValueError as error:
            collector.skip(number, error)
    return collector.result("rows")


def gather_prompts(names: Iterable[str], per_file: int | None = None) -> list[Prompt]:
    """Collect the prompts of several files, and print how many lines of each were skipped.

    Args:
        names: .jsonl files and names of bundled sets.
        per_file: most prompts of each, evenly spread over it. Default: all.

    Returns:
        The prompts, file by file.

    Raises:
        ValueError: a file without a prompt, or an unknown bundled set.
    """
    prompts: list[Prompt] = []
    for name in names:
        path = name if name.endswith(".jsonl") else bundled_prompts(name)
        found, skipped = read_prompts(path)
        if skipped:
            first = skipped[0]
            print(
                f"{name}: {len(skipped)} lines skipped, "
                f"the first: line {first.line}, {first.reason}"
            )
        prompts += evenly_spread(found, per_file)
    return prompts


def write_prompts(path: str | Path, prompts: Iterable[Prompt]) -> None:
    """Write a JSON-lines file that `read_prompts` reads; it appears whole or not at all.

    Args:
        path: the file. Its folder is made where it does not exist.
        prompts: one for each line.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The rename at the end is atomic, so no reader meets half a file.
    scratch = path.with_suffix(".tmp")
    with scratch.open("w", encoding="utf-8") as file:
        for prompt in prompts:
            file.write(json.dumps(prompt, ensure_ascii=False) + "\n")
    scratch.replace(path)


def evenly_spread(rows: Sequence[T], count: int | None) -> list[T]:
    """Choose rows at equal distances, because files may be sorted (by length, say).

    Args:
        rows: anything with a length.
        count: most rows to choose. None: all.

    Returns:
        At most `count` rows, in their order.
    """
    count = len(rows) if count is None else min(count, len(rows))
    return [rows[number * len(rows) // count] for number in range(count)]


class _Collector:
    """Collects prompts with distinct ids, and the rows that gave none."""

    def __init__(self, source: str):
        self.source = source
        self.prompts: list[Prompt] = []
        self.skipped: list[SkippedLine] = []
        self._ids: set[str] = set()

    def add(self, number: int, row: object) -> None:
        """Take the prompt of a row; ValueError where it holds none or repeats an id."""
        default_id = f"{self.source}-{number}"
        prompt = prompt_from_row(row, default_id=default_id, source=self.source)
        if prompt["id"] in self._ids:
            raise ValueError(f"the id {prompt['id']!r} was used before")
        # Only a prompt that is used claims its id.
        self._ids.add(prompt["id"])
        self.prompts.append(prompt)

    def skip(self, number: int, error: ValueError) -> None:
        """Note why a row gave no prompt."""
        self.skipped.append(SkippedLine(number, str(error)))

    def result(self, what: str) -> tuple[list[Prompt], list[SkippedLine]]:
        """Prompts and skipped rows; ValueError where there is no prompt among `what`."""
        if not self.prompts:
            reasons = first_reasons(self.skipped, "there were none")
            raise ValueError(
                f"none of {len(self.skipped)} {what} holds a prompt ({reasons}); "
                f"one of {COLUMNS} is needed"
            )
        return self.prompts, self.skipped
