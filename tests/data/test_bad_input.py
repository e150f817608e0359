"""Bad input, at every door: counted, named with its line, left out, and the run goes on."""

import json
import re

import pytest

from eagle_hf.data import (
    LengthRule,
    SpecialTokenRule,
    estimate_mixture,
    load_conversations,
    load_prompts,
    prepare_examples,
    prompts_from_dataset,
    read_conversations,
    select_prompts,
)

pytestmark = pytest.mark.usefixtures("dataset_cache")

MEGABYTE = 2**20
USER = {"role": "user", "content": "What is a tide?"}
ANSWER = {"role": "assistant", "content": "Water."}
GOOD = {"messages": [USER, ANSWER]}

# Rows that are JSON and no conversation, and what is said of them.
BAD_ROWS = {
    "no mapping": ([1], "is of type list"),
    "unknown columns": ({"question": "a", "answer": "b"}, "the columns ['question', 'answer']"),
    "assistant first": ({"messages": [ANSWER, USER]}, "role 'assistant' comes first"),
    "roles out of order": ({"messages": [USER, USER, ANSWER]}, "role 'user' follows 'user'"),
    "system last": ({"messages": [USER, {"role": "system", "content": "s"}]}, "follows 'user'"),
    "unknown role": ({"messages": [{"role": "wizard", "content": "a"}, ANSWER]}, "'wizard'"),
    "empty content": ({"messages": [USER | {"content": " "}, ANSWER]}, "is empty"),
    "no parts": ({"messages": [USER | {"content": []}, ANSWER]}, "is empty"),
    "empty parts": (
        {"messages": [USER | {"content": [{"type": "text", "text": " "}]}, ANSWER]},
        "is empty",
    ),
    "content null": ({"messages": [USER | {"content": None}, ANSWER]}, "of type NoneType"),
    "content a number": ({"messages": [USER | {"content": 3}, ANSWER]}, "of type int"),
    "half a surrogate": ({"messages": [USER | {"content": "a\ud800"}, ANSWER]}, "surrogate"),
    "tools no list": (GOOD | {"tools": 3}, "tools is of type int"),
}
# Lines that are no JSON.
BAD_LINES = {
    "not UTF-8": (b'{"messages": "\xff"}', "not UTF-8"),
    "half a line": (b'{"messages": [{"role": "us', "ends in the middle of a value"),
    "empty": (b"", "empty line"),
    "no JSON": (b"{'messages': []}", "not JSON"),
    "nested too deep": (b"[" * 100_000, "not readable as JSON"),
    "not a number": (b'{"messages": NaN}', "NaN is no value of JSON"),
    "50 MB": (b'"' + b"a" * 50 * MEGABYTE, "longer than 16777216 bytes"),
}


def from_prompts(path):
    """How many prompts a file gives, and the lines that gave none."""
    found, skipped = load_prompts(path)
    return len(found), skipped


def from_conversations(path):
    """How many conversations a file gives, and the lines that gave none."""
    found, skipped = read_conversations(path)
    return len(found), skipped


def from_log(path):
    """How many requests a log gives, and the lines that gave none."""
    estimate = estimate_mixture(path)
    return estimate.requests, estimate.skipped


DOORS = {"prompts": from_prompts, "conversations": from_conversations, "log": from_log}
# Every text of a user counts in a log, whatever stands around it.
FINE_IN_LOGS = (
    "assistant first",
    "roles out of order",
    "system last",
    "tools no list",
)

# What the types of a table exclude.
NOT_IN_TABLES = (
    *("no mapping", "content a number", "half a surrogate", "tools no list"),
    *("no parts", "empty parts"),
)


def lines_of(*rows):
    """Lines of JSON; bytes stay as they are."""
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    return b"\n".join(lines) + b"\n"


def check(door, path, bad_line, reason):
    """Both good rows are used, the bad one is counted, with its line and why."""
    found, skipped = DOORS[door](path)
    assert found == 2
    assert [row.line for row in skipped] == [bad_line]
    assert reason in skipped[0].reason


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", BAD_LINES)
def test_a_line_that_is_no_json_costs_that_line(tmp_path, door, name):
    line, reason = BAD_LINES[name]
    path = tmp_path / "mine.jsonl"
    path.write_bytes(lines_of(GOOD, line, GOOD))
    check(door, path, 2, reason)


@pytest.mark.parametrize("door", ["prompts", "conversations"])
@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_of_json_lines_costs_that_row(tmp_path, door, name):
    row, reason = BAD_ROWS[name]
    path = tmp_path / "mine.jsonl"
    path.write_bytes(lines_of(GOOD, row, GOOD))
    check(door, path, 2, reason)


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_row_of_a_log_counts_where_it_has_a_users_text(tmp_path, name):
    path = tmp_path / "log.jsonl"
    path.write_bytes(lines_of(GOOD, BAD_ROWS[name][0], GOOD))
    found, skipped = from_log(path)
    assert found == (3 if name in FINE_IN_LOGS else 2)
    assert found + len(skipped) == 3


@pytest.mark.parametrize("door", ["prompts", "conversations"])
@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_of_a_json_list_costs_that_row(tmp_path, door, name):
    row, reason = BAD_ROWS[name]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([GOOD, row, GOOD]))
    check(door, path, 1, reason)


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_of_the_hub_costs_that_row(name):
    row, reason = BAD_ROWS[name]
    found, skipped = prompts_from_dataset([GOOD, row, GOOD])
    assert len(found) == 2
    assert [one.line for one in skipped] == [1]
    assert reason in skipped[0].reason


@pytest.mark.parametrize("door", ["prompts", "conversations"])
@pytest.mark.parametrize("name", [name for name in BAD_ROWS if name not in NOT_IN_TABLES])
def test_a_bad_row_of_parquet_costs_that_row(tmp_path, door, name):
    datasets = pytest.importorskip("datasets")
    row, reason = BAD_ROWS[name]
    path = tmp_path / "mine.parquet"
    columns = dict.fromkeys([*GOOD, *row])
    datasets.Dataset.from_list([columns | GOOD, columns | row, columns | GOOD]).to_parquet(path)
    reason = "has the columns" if name == "unknown columns" else reason
    check(door, path, 1, reason)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'"\xff",b', "not UTF-8"),
        (b"a,b,c", "3 fields and the first line names 2"),
        (b"a", "1 fields and the first line names 2"),
        (b'"a"b,c', "not CSV"),
        (b",b", "one of"),
        (b"x" * 50 * MEGABYTE, "longer than 16777216 bytes"),
    ],
)
def test_a_bad_row_of_csv_costs_that_row(tmp_path, line, reason):
    path = tmp_path / "mine.csv"
    path.write_bytes(b'prompt,answer\r\n"a,\nb",c\n' + line + b"\na,b\n")
    found, skipped = load_prompts(path)
    assert [prompt["turns"] for prompt in found] == [["a,\nb"], ["a"]]
    assert [prompt["id"] for prompt in found] == ["mine-2", "mine-5"]
    assert [row.line for row in skipped] == [4]
    assert reason in skipped[0].reason


def test_half_a_row_at_the_end_of_csv_costs_that_row(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_bytes(b'prompt,answer\na,b\n"a, ')
    found, skipped = load_prompts(path)
    assert len(found) == 1
    assert [row.line for row in skipped] == [3]
    assert "not CSV: unexpected end of data" in skipped[0].reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"\xff", "not UTF-8"),
        (b"<|im_start|>user", "a chat that a template has rendered"),
        (b"x" * 50 * MEGABYTE, "longer than 16777216 bytes"),
    ],
)
def test_a_bad_line_of_text_costs_that_line(tmp_path, line, reason):
    path = tmp_path / "mine.txt"
    path.write_bytes(b"a\n" + line + b"\nb\n")
    check("prompts", path, 2, reason)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (b', {"prompt": "a', "cut in the middle"),
        (b", {'prompt': 1}]", "not JSON"),
        (b', "' + b"a" * 50 * MEGABYTE + b'"]', "no JSON value ends within 16777216 characters"),
        (b"", "the list ends without its bracket"),
    ],
)
def test_a_json_list_is_used_up_to_where_it_breaks(tmp_path, end, reason):
    path = tmp_path / "mine.json"
    path.write_bytes(b"[" + json.dumps(GOOD).encode() + b",\n" + json.dumps(GOOD).encode() + end)
    check("prompts", path, 2, reason)
    assert "rows from here on are lost" in load_prompts(path)[1][0].reason


def test_a_value_of_a_json_list_that_is_not_utf8_costs_that_value(tmp_path):
    path = tmp_path / "mine.json"
    path.write_bytes(b'[{"prompt": "a"}, {"prompt": "\xff"}, {"prompt": "b\xc3\xa4"}]')
    check("prompts", path, 1, "not UTF-8")


@pytest.mark.parametrize("size", [100, 1000])
def test_a_damaged_table_is_refused_by_name(tmp_path, size):
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "mine.parquet"
    datasets.Dataset.from_list([GOOD] * 500).to_parquet(path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"mine.parquet is no readable parquet file"):
        load_prompts(path)


def test_a_table_that_is_damaged_inside_is_used_up_to_there(tmp_path):
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "mine.parquet"
    rows = [{"prompt": f"what is {number} squared?"} for number in range(4000)]
    datasets.Dataset.from_list(rows).to_parquet(path, batch_size=1000)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    path.write_bytes(data)
    found, skipped = load_prompts(path)
    assert 1000 <= len(found) < 4000
    assert "the file is damaged" in skipped[-1].reason


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", [*BAD_LINES, *BAD_ROWS])
def test_loaded_conversations_lack_the_bad_row_alone(tmp_path, name, streaming, capsys):
    pytest.importorskip("datasets")
    bad, reason = (BAD_LINES | BAD_ROWS)[name]
    path = tmp_path / "mine.jsonl"
    path.write_bytes(lines_of(GOOD, bad, GOOD))
    rows = load_conversations(path, streaming=streaming)
    assert [row["id"] for row in rows] == ["mine-1", "mine-3"]
    shown = capsys.readouterr().out
    assert re.search(r"mine.jsonl: 1 lines skipped, the first: line 2, .*", shown)
    assert reason in shown


def test_prompts_that_cannot_be_served_are_counted(tmp_path, tokenizer):
    path = tmp_path / "mine.jsonl"
    turns = ["a", "a" * 300, "a<|im_end|>\n<|im_start|>assistant\nb", "b"]
    path.write_bytes(lines_of(*({"turns": [turn]} for turn in turns)))
    prompts, skipped = load_prompts(path)
    assert skipped == []
    rules = [LengthRule(max_tokens=256, tokenizer=tokenizer), SpecialTokenRule(tokenizer)]
    selection = select_prompts(prompts, rules)
    assert [prompt["id"] for prompt in selection.prompts] == ["mine-1", "mine-4"]
    assert selection.removed == {"length": 1, "special tokens": 1}
    assert [row.id for row in selection.examples] == ["mine-2", "mine-3"]


def test_conversations_that_cannot_be_learnt_are_counted(tmp_path, target, tokenizer):
    pytest.importorskip("datasets")
    path = tmp_path / "mine.jsonl"
    answers = ["x", "x" * 300, "x<|im_end|>y", "y"]
    rows = [{"messages": [USER, ANSWER | {"content": answer}]} for answer in answers]
    path.write_bytes(lines_of(*rows))
    examples, skipped = prepare_examples(target, tokenizer, load_conversations(path))
    assert [example["id"] for example in examples] == ["mine-1", "mine-4"]
    assert [row.id for row in skipped] == ["mine-2", "mine-3"]
    assert "max_length is 256" in skipped[0].reason
    assert "'<|im_end|>' as text" in skipped[1].reason
