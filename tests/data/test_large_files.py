"""Files of hundreds of megabytes are read in the memory of a few rows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROWS = 100_000  # of about three kilobytes
TEXT = "the tide rises, the tide falls, and so on. " * 70
BOUND = 64  # megabytes that reading may add

# Prints how many rows were used, and by how many megabytes memory grew after the first of them.
READER = """
import sys
from itertools import count

import datasets

from eagle_hf.data import load_conversations, stream_prompts

datasets.config.HF_DATASETS_CACHE = sys.argv[3]


def megabytes():
    # Pages of mapped files are not counted: they are given back when memory is short.
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024


if sys.argv[1] == "prompts":
    rows = stream_prompts(sys.argv[2], [])
else:
    rows = load_conversations(sys.argv[2], streaming=sys.argv[1] == "streamed")
peak = 0
for used, row in enumerate(rows, start=1):
    if used == 1000:
        first = megabytes()
    if used % 1000 == 0:
        peak = max(peak, megabytes())
print("used", used, "grew", peak - first)
"""


def write_rows(path: Path) -> None:
    """Rows with ids; every tenth cannot be used."""
    with path.open("w") as file:
        if path.suffix == ".json":
            file.write("[")
        for number in range(ROWS):
            content = TEXT if number % 10 else ""
            messages = [
                {"role": "user", "content": content},
                {"role": "assistant", "content": "indeed"},
            ]
            separator = "," if path.suffix == ".json" and number else ""
            row = {"id": f"row {number}", "messages": messages}
            file.write(f"{separator}{json.dumps(row)}\n")
        if path.suffix == ".json":
            file.write("]")


def write_table(path: Path) -> None:
    """The same as a CSV file."""
    with path.open("w") as file:
        file.write("id,prompt\n")
        for number in range(ROWS):
            content = TEXT if number % 10 else ""
            file.write(f'row {number},"{content}"\n')


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(
    ("name", "door"),
    [
        ("mine.jsonl", "prompts"),
        ("mine.json", "prompts"),
        ("mine.csv", "prompts"),
        ("mine.jsonl", "streamed"),
        ("mine.jsonl", "loaded"),
    ],
)
def test_hundreds_of_megabytes_are_read_in_constant_memory(tmp_path, name, door):
    pytest.importorskip("datasets")
    path = tmp_path / name
    write = write_table if path.suffix == ".csv" else write_rows
    write(path)
    assert path.stat().st_size > 250e6
    command = [sys.executable, "-c", READER, door, str(path), str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    last = done.stdout.splitlines()[-1].split()
    assert int(last[1]) == ROWS - ROWS // 10
    assert float(last[3]) < BOUND
