"""Files of conversations as data sets: every usable row as it was, every other one counted."""

import json

import pytest

from eagle_hf.data import prepare_examples, write_responses
from eagle_hf.data.reading.conversations import load_conversations

pytest.importorskip("datasets")
pytestmark = pytest.mark.usefixtures("dataset_cache")

QUESTION = {"role": "user", "content": "a"}
ANSWER = {"role": "assistant", "content": "x"}
CALL = {
    "function": {"name": "f", "arguments": {"x": 0.1 + 0.2, "n": 10**30, "deep": [{"a": None}]}}
}
OTHER_CALL = {"function": {"name": "g", "arguments": '{"y": "1"}'}}
GOOD = {"id": "good", "messages": [QUESTION, ANSWER], "source": "mine", "category": "chat"}
doors = pytest.mark.parametrize("streaming", [False, True])


def write(path, *rows):
    """A file of these lines; bytes stay as they are."""
    path.parent.mkdir(exist_ok=True)
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def filled(rows):
    """The rows without the columns that are None."""
    return [{key: value for key, value in row.items() if value is not None} for row in rows]


@doors
def test_bad_rows_are_counted_with_file_and_line_and_the_others_are_used(
    tmp_path, streaming, capsys
):
    lines = [b"\xff", b'{"messages": [{"role"', {"answer": "x"}, {"messages": [ANSWER]}]
    path = write(tmp_path / "mine.jsonl", lines[0], GOOD, *lines[1:], GOOD | {"id": "other"})
    rows = load_conversations(path, streaming=streaming)
    assert [row["id"] for row in rows] == ["good", "other"]
    shown = capsys.readouterr().out
    assert f"{path}: 4 lines skipped, the first: line 1, not UTF-8" in shown


def test_a_stream_that_begins_again_says_once_what_it_skips(tmp_path, capsys):
    rows = load_conversations(write(tmp_path / "mine.jsonl", GOOD, b"{"), streaming=True)
    assert [row["id"] for _ in range(3) for row in rows] == ["good"] * 3
    assert capsys.readouterr().out.count("1 lines skipped") == 1


@doors
def test_rows_come_back_exactly_as_they_were(tmp_path, streaming):
    calls = {"role": "assistant", "content": None, "tool_calls": [CALL, OTHER_CALL]}
    result = {"role": "tool", "content": "", "name": "f"}
    served = {"prompt_ids": [1, 2], "response_ids": [2**40], "finish_reason": "length"}
    rows = [
        GOOD,
        GOOD | {"id": "called", "messages": [QUESTION, calls, result, ANSWER]},
        GOOD | {"id": "served", "served_turns": [served], "format": 2},
        GOOD | {"id": "told", "tools": [{"name": "f"}], "chat_template_kwargs": {"a": 1}},
        GOOD | {"id": "told too", "tools": '[{"name": "g"}]', "chat_template_kwargs": {"b": "x"}},
        GOOD
        | {
            "id": "7",
            "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, ANSWER],
        },
    ]
    found = load_conversations(write(tmp_path / "mine.jsonl", *rows), streaming=streaming)
    wanted = [dict(row) for row in rows]
    wanted[1]["messages"] = [
        QUESTION,
        {"role": "assistant", "content": None} | calls,
        result,
        ANSWER,
    ]
    assert filled(found) == wanted


def test_rows_can_be_chosen_shuffled_and_asked_for(tmp_path):
    rows = [GOOD | {"id": str(number)} for number in range(10)]
    found = load_conversations(write(tmp_path / "mine.jsonl", *rows))
    assert len(found) == 10
    assert found[3]["messages"] == [QUESTION, ANSWER]
    assert found.select([4, 2])["id"][:] == ["4", "2"]
    assert sorted(found.shuffle(seed=0)["id"]) == [str(number) for number in range(10)]
    assert [row["id"] for row in found.take(2)] == ["0", "1"]
    assert found.train_test_split(0.2, seed=0)["test"][0]["messages"] == [QUESTION, ANSWER]


def test_a_file_that_changed_is_read_anew(tmp_path):
    path = write(tmp_path / "mine.jsonl", GOOD)
    assert len(load_conversations(path)) == 1
    write(path, GOOD, GOOD | {"id": "other"})
    assert len(load_conversations(path)) == 2


@doors
def test_rows_without_an_id_are_named_apart_in_files_of_one_name(tmp_path, streaming):
    row = {"messages": [QUESTION, ANSWER]}
    paths = [write(tmp_path / name / "conversations.jsonl", row, row) for name in "ab"]
    ids = [
        row["id"] for row in load_conversations([paths[0].parent, paths[1]], streaming=streaming)
    ]
    assert ids == [f"{name}/conversations.jsonl-{line}" for name in "ab" for line in (1, 2)]


@doors
def test_rows_that_are_tokenised_stay_so(tmp_path, streaming):
    row = {"input_ids": [1, 2, 3], "loss_mask": [0, 1, 1]}
    found = load_conversations(write(tmp_path / "mine.jsonl", row), streaming=streaming)
    assert list(found) == [{"id": "mine-1"} | row]


@doors
@pytest.mark.parametrize("name", ["mine.json", "mine.csv", "mine.parquet"])
def test_files_of_other_formats_are_loaded_too(tmp_path, name, streaming):
    path = tmp_path / name
    row = {"prompt": "a", "response": "x"}
    if name == "mine.json":
        path.write_text(json.dumps([row]))
    elif name == "mine.csv":
        path.write_text("prompt,response\na,x\n")
    else:
        import datasets

        datasets.Dataset.from_list([row]).to_parquet(path)
    [found] = load_conversations(path, streaming=streaming)
    assert found["messages"] == [QUESTION, ANSWER]


@doors
def test_what_is_loaded_becomes_examples(tmp_path, streaming, target, tokenizer):
    path = write(tmp_path / "mine.jsonl", GOOD, b"{", GOOD | {"id": "other"})
    rows = load_conversations(path, streaming=streaming)
    examples, skipped = prepare_examples(target, tokenizer, rows)
    assert [example["id"] for example in examples] == ["good", "other"]
    assert skipped == []


def test_a_file_without_a_conversation_is_refused(tmp_path):
    path = write(tmp_path / "mine.jsonl", {"turns": ["a"]}, b"{")
    with pytest.raises(ValueError, match=r"none of 2 lines of mine.jsonl holds a conversation"):
        load_conversations(path)


def test_files_and_data_sets_of_the_hub_are_not_mixed(tmp_path):
    path = write(tmp_path / "mine.jsonl", GOOD)
    with pytest.raises(ValueError, match=r"mine.jsonl and data sets of the Hub .* one by one"):
        load_conversations([path, "owner/name"])


@doors
def test_a_store_of_answers_is_read_anew_when_it_grew(
    tmp_path, scripted, tokenizer, make_prompts, streaming
):
    for turns in (["a"], ["a", "b|c"]):
        prompts = make_prompts(*turns)
        write_responses(scripted, tokenizer, prompts, tmp_path, max_new_tokens=16)
        (tmp_path / "conversations.jsonl").unlink()
        rows = list(load_conversations(tmp_path, streaming=streaming))
        assert [row["id"] for row in rows] == [prompt["id"] for prompt in prompts]
        assert len(rows[-1]["served_turns"]) == len(prompts[-1]["turns"])


@doors
def test_rows_of_the_hub_are_read_as_those_of_a_file(monkeypatch, streaming, capsys):
    import datasets

    asked = []
    row = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "x"}]}
    bad = {"conversations": [{"from": "gpt", "value": "x"}]}

    def load_dataset(*names, **settings):
        asked.append((names, settings))
        rows = datasets.Dataset.from_list([row, bad, row])
        return rows.to_iterable_dataset() if settings["streaming"] else rows

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = load_conversations("openthoughts", streaming=streaming)
    assert [one["id"] for one in found] == ["openthoughts-0", "openthoughts-2"]
    assert [one["messages"] for one in found] == [[QUESTION, ANSWER]] * 2
    assert asked[0][0] == ("open-thoughts/OpenThoughts-114k",)
    assert "openthoughts: 1 lines skipped, the first: line 1" in capsys.readouterr().out


@doors
def test_data_sets_of_the_hub_with_messages_come_as_they_are(monkeypatch, streaming):
    import datasets

    rows = datasets.Dataset.from_list([{"messages": [QUESTION, ANSWER], "other": 1}])

    def load_dataset(*names, **settings):
        return rows

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_conversations("owner/name", streaming=streaming) is rows


def test_answers_that_may_not_be_used_are_refused():
    with pytest.raises(ValueError, match=r"ultrachat: .* not for training"):
        load_conversations("ultrachat")
