"""Lines of files, also of files that nobody should have written."""

import tracemalloc

import pytest

from eagle_hf.data.reading.lines import read_json_lines, read_text_lines


def values(rows):
    """Numbers with what was read, or the text of the error."""
    return [
        (row.number, str(row.value) if isinstance(row.value, ValueError) else row.value)
        for row in rows
    ]


def test_every_line_comes_with_its_number_or_its_error(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b'{"a": 1}\n\n\xff\n{"a": 2}\r\n{"a": ')
    rows = values(read_json_lines(path))
    assert [number for number, _ in rows] == [1, 2, 3, 4, 5]
    assert rows[0][1] == {"a": 1}
    assert rows[1][1] == "empty line"
    assert "not UTF-8: invalid start byte at byte 0" in rows[2][1]
    assert rows[3][1] == {"a": 2}
    assert "ends in the middle of a value" in rows[4][1]


@pytest.mark.parametrize("half", [b'{"prompt": "the answ', b'{"prompt":', b'[{"prompt": "a"}'])
def test_half_a_line_is_called_so(tmp_path, half):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(half)
    assert "ends in the middle of a value" in values(read_json_lines(path))[0][1]


def test_a_broken_line_is_not_called_half_a_line(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b'{"prompt": what}\n')
    assert "middle" not in values(read_json_lines(path))[0][1]


def test_a_line_that_is_too_long_is_skipped_and_the_next_one_read(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b'"' + b"a" * 100 + b'"\n{"a": 1}\n' + b"b" * 50)
    rows = values(read_json_lines(path, longest=20))
    assert [number for number, _ in rows] == [1, 2, 3]
    assert "longer than 20 bytes; write one row a line" in rows[0][1]
    assert rows[1][1] == {"a": 1}
    assert "longer than 20 bytes" in rows[2][1]


def test_a_line_of_exactly_the_limit_is_read(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b"1234567890\n1234567890")
    assert values(read_json_lines(path, longest=10)) == [(1, 1234567890), (2, 1234567890)]


def test_fifty_megabytes_in_one_line_are_never_in_memory(tmp_path):
    path = tmp_path / "mine.jsonl"
    with path.open("wb") as file:
        file.seek(50 * 2**20)
        file.write(b'\n{"a": 1}\n')
    tracemalloc.start()
    rows = values(read_json_lines(path, longest=2**20))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows[1] == (2, {"a": 1})
    assert peak < 8 * 2**20


def test_lines_of_text_are_prompts_and_empty_ones_stand_between(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_bytes("\ufefffirst \n\n  \nsecond\n".encode() + b"\xff\n")
    rows = values(read_text_lines(path))
    assert rows[:2] == [(1, {"text": "first"}), (4, {"text": "second"})]
    assert "not UTF-8" in rows[2][1]
