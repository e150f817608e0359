"""Suites of others, as their own scripts leave them on disk. They are loaded and never bundled.

    SPEED-Bench             folder of prepare_data.py: .../qualitative/test.parquet; one folder, or
                            that of all configurations
    speculator_benchmarks   folder with HumanEval.jsonl, math_reasoning.jsonl, ...
    Spec-Bench              question.jsonl
    anything else           a folder of .jsonl or .parquet files, or a file for `read_prompts`

Categories are those of the rows. In a folder of .jsonl files they are the files' names, and in a
folder of several configurations their name stands before the row's category.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from eagle_hf.data.reading.prompt_rows import prompt_from_row
from eagle_hf.data.reading.sources import check_found, describe_skipped, open_file, parsed_rows
from eagle_hf.data.rows import Prompt, SkippedLine

ID_COLUMNS = ("question_id", "task_id")  # where there is no "id"
# What stands in turns that SPEED-Bench's script has not filled in yet.
PLACEHOLDER = "FULL BENCHMARK DATA SHOULD BE FETCHED"
LICENCES = {
    "SPEED-Bench": "NVIDIA Evaluation Dataset License, and the terms of the data sets that its "
    "prompts come from",
    "Spec-Bench": "Apache-2.0",
    "speculator_benchmarks": "Apache-2.0; HumanEval: MIT",
}


def read_outside_suite(path: Path) -> list[Prompt]:
    """Read a file or folder of prompts; what it is, and its licence, is said on stderr.

    Args:
        path: of the file or folder.

    Returns:
        The prompts, file by file.

    Raises:
        ValueError: There is no prompt, or SPEED-Bench's turns were not filled in.
    """
    files = _files_of(path)
    suite = suite_name(path, files)
    if suite:
        print(f"note: {path} is {suite} ({LICENCES[suite]})", file=sys.stderr)
    prompts: list[Prompt] = []
    for file in files:
        reader = RowReader(file, is_folder=path.is_dir(), is_alone=len(files) == 1)
        prompts += _read_file(file, reader)
    return prompts


def suite_name(path: Path, files: list[Path]) -> str:
    """Which known suite lies at a path; "" where it is none.

    Args:
        path: of the file or folder.
        files: found there.
    """
    names = {file.name for file in files}
    if names == {"test.parquet"} and path.is_dir():
        return "SPEED-Bench"
    if {"HumanEval.jsonl", "math_reasoning.jsonl"} <= names:
        return "speculator_benchmarks"
    if path.name == "question.jsonl" and path.is_file():
        return "Spec-Bench"
    return ""


class RowReader:
    """Makes prompts of the rows of one file; a `RowParser`.

    Args:
        file: where the rows are.
        is_folder: whether a folder was given.
        is_alone: whether it is the only file of the folder.
    """

    def __init__(self, file: Path, is_folder: bool, is_alone: bool):
        self._category = file.stem if is_folder and file.suffix == ".jsonl" else ""
        self._before = ""
        if not is_alone:
            # the files of several configurations have one name in different folders
            self._before = file.parent.name if file.suffix == ".parquet" else file.stem

    def __call__(self, row: object, *, default_id: str, source: str) -> Prompt:
        """The prompt of a row; ValueError where it holds none."""
        if isinstance(row, Mapping) and row.get("id") is None:
            for name in ID_COLUMNS:
                if row.get(name) is not None:
                    row = {**row, "id": row[name]}
                    break
        prompt = prompt_from_row(row, default_id=default_id, source=source)
        if prompt["turns"][0].startswith(PLACEHOLDER):
            raise UnpreparedError(
                f"the turns of {prompt['id']} were not filled in; run SPEED-Bench's "
                "prepare_data.py, and give the folder that it writes"
            )
        if self._category:
            prompt["category"] = self._category
        elif self._before:
            prompt["category"] = f"{self._before}/{prompt['category']}"
        if self._before:
            prompt["id"] = f"{self._before}/{prompt['id']}"
        return prompt


class UnpreparedError(Exception):
    """A row waits for its text: no other row of the file is worth reading."""


def _files_of(path: Path) -> list[Path]:
    """The files of a folder that hold prompts, or the file itself."""
    if path.is_file():
        return [path]
    found = sorted(path.rglob("*.parquet")) or sorted(path.glob("*.jsonl"))
    if not found:
        raise ValueError(f"{path} holds no .jsonl and no .parquet file; give a folder with prompts")
    return found


def _read_file(file: Path, reader: RowReader) -> list[Prompt]:
    """The prompts of a file; rows that hold none are said on stderr."""
    source = open_file(file)
    skipped: list[SkippedLine] = []
    try:
        prompts = list(parsed_rows(source, reader, skipped))
    except UnpreparedError as error:
        raise ValueError(f"{file}: {error}") from error
    check_found(len(prompts), skipped, source.unit, "a prompt", "give a file with prompts")
    if skipped:
        print(describe_skipped(file, skipped), file=sys.stderr)
    return prompts
