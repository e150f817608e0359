"""The files of a log: read once, whatever is appended, rotated, truncated or deleted."""

import json
import shutil

import pytest

from eagle_hf.following.log_files import Mark, find_log_files, unread_lines
from eagle_hf.following.log_rows import Limits, RowReader
from eagle_hf.following.pool import Pool
from eagle_hf.following.reading import Reading, find_unread, read_files

LIMITS = Limits(vocabulary=100, max_length=20, stop=(2,))


def no_tokenizer():
    raise AssertionError("no row needs a tokenizer")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "out").mkdir()
    return tmp_path


def line(number):
    return json.dumps({"prompt_token_ids": [1, 3, number], "token_ids": [4, 5, 2]}) + "\n"


def read(folder):
    """A call's reading."""
    pool = Pool(folder / "out")
    reading = Reading()
    files = find_unread(folder / "log", pool, reading)
    read_files(files, pool, RowReader(LIMITS, no_tokenizer), reading, lambda: None)
    pool.close()
    return reading


def test_what_is_appended_is_read_once_and_a_half_line_waits(folder):
    file = folder / "log" / "a.jsonl"
    file.write_text(line(1) + line(2)[:10])
    assert read(folder).added == 1
    with file.open("a") as log:
        log.write(line(2)[10:] + line(3))
    reading = read(folder)
    assert (reading.lines, reading.added, reading.bad) == (2, 2, 0)
    assert read(folder).lines == 0


def test_a_rotated_file_goes_on_where_it_was(folder):
    file = folder / "log" / "a.jsonl"
    file.write_text(line(1))
    read(folder)
    with file.open("a") as log:
        log.write(line(2))
    file.rename(folder / "log" / "a.jsonl.1")
    file.write_text(line(3))
    reading = read(folder)
    assert (reading.lines, reading.added) == (2, 2)


def test_a_file_that_was_rotated_without_a_new_line_is_never_read_again(folder):
    file = folder / "log" / "a.jsonl"
    file.write_text(line(1))
    read(folder)
    file.rename(folder / "log" / "a.jsonl.1")
    file.write_text(line(2))
    assert read(folder).lines == 1
    (folder / "log" / "a.jsonl.1").rename(folder / "log" / "a.jsonl.2")
    file.rename(folder / "log" / "a.jsonl.1")
    file.write_text(line(3))
    assert read(folder).lines == 1
    assert read(folder).lines == 0


def test_a_copied_and_truncated_file_is_not_read_twice(folder):
    file = folder / "log" / "a.jsonl"
    file.write_text(line(1) + line(2))
    read(folder)
    shutil.copy(file, folder / "log" / "a.jsonl.1")
    file.write_text(line(3))
    reading = read(folder)
    assert (reading.lines, reading.added) == (1, 1)


def test_a_truncated_file_that_grew_again_is_read_from_its_beginning(folder):
    file = folder / "log" / "a.jsonl"
    file.write_text(line(1))
    read(folder)
    file.write_text("".join(line(number) for number in range(2, 6)))
    assert read(folder).added == 4


def test_a_deleted_file_is_forgotten_and_compressed_ones_are_not_read(folder):
    for name in ("a.jsonl", "b.jsonl", "c.jsonl.gz"):
        (folder / "log" / name).write_text(line(len(name)))
    read(folder)
    (folder / "log" / "a.jsonl").unlink()
    (folder / "log" / "b.jsonl").open("a").write(line(9))
    assert read(folder).lines == 1


def test_bad_lines_are_counted_and_named_and_others_taken(folder):
    bad = [
        "{",
        "[1]",
        json.dumps({"messages": [{"role": "user", "content": "hi"}]}),
        json.dumps({"prompt_token_ids": [1], "token_ids": [100, 2]}),
        json.dumps({"prompt_token_ids": [1], "token_ids": []}),
        json.dumps({"prompt_token_ids": [1, 3], "token_ids": [4], "finish_reason": "abort"}),
        json.dumps({"prompt_token_ids": [1, 3], "token_ids": [4.5, 2]}),
        json.dumps({"prompt_token_ids": [1] * 30, "token_ids": [4, 2]}),
        json.dumps({"input_ids": [1, 3, 4], "loss_mask": [0, 0]}),
        json.dumps({"input_ids": [1, 3, 4], "loss_mask": [0, 0, 7]}),
    ]
    text = "\n".join([line(1).strip(), "", *bad, line(2).strip()]) + "\n"
    (folder / "log" / "a.jsonl").write_text(text)
    reading = read(folder)
    assert (reading.added, reading.bad) == (2, len(bad))
    assert reading.reasons[0].startswith("a.jsonl line 3: not JSON")
    assert "return_token_ids" in reading.reasons[2]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt_token_ids": [1], "token_ids": [100, 2]}, "the token id 100 is none of"),
        ({"prompt_token_ids": [1, -1], "token_ids": [4, 2]}, "the token id -1 is none of"),
        ({"prompt_token_ids": [1] * 30, "token_ids": [4, 2]}, "has 32 tokens and max_length is 20"),
        ({"messages": []}, "Text alone is not learnt"),
    ],
)
def test_a_bad_line_is_told_why(row, reason):
    with pytest.raises(ValueError, match=reason):
        RowReader(LIMITS, no_tokenizer).read("x", json.dumps(row).encode())


def test_all_forms_of_a_request_are_read():
    reader = RowReader(LIMITS, no_tokenizer)
    plain = {"prompt_token_ids": [1, 3], "token_ids": [4, 2]}
    choice = {"prompt_token_ids": [1, 3], "choices": [{"token_ids": [4, 2]}]}
    inner = {"choices": [{"prompt_token_ids": [1, 3], "token_ids": [4, 2], "finish_reason": None}]}
    tokenised = {"input_ids": [1, 3, 4, 2], "loss_mask": [0, 0, 1, 1]}
    for row in (plain, choice, inner, tokenised):
        (example,) = reader.read("x", json.dumps(row).encode())
        assert example == {"id": "x", "input_ids": [1, 3, 4, 2], "loss_mask": [0, 0, 1, 1]}


def test_a_line_that_is_too_long_is_given_out_without_its_text(folder):
    file = folder / "log" / "a.jsonl"
    file.write_text("x" * 50 + "\n" + "y\n" + "z" * 50)
    lines = list(unread_lines(file, Mark(str(file), 0, 0, ""), longest=20))
    assert [(one.number, one.text, one.end) for one in lines] == [(1, None, 51), (2, b"y\n", 53)]


def test_the_same_conversation_is_taken_once(folder):
    (folder / "log" / "a.jsonl").write_text(line(1) + line(1))
    reading = read(folder)
    assert (reading.added, reading.repeated) == (1, 1)


@pytest.mark.parametrize("name", ["nowhere", "file", "empty"])
def test_a_log_that_is_none_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is no folder|holds no file"):
        find_log_files(tmp_path / name)
