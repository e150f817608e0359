"""Finished conversations of every common shape, and those that are none."""

import json

import pytest

from eagle_hf.data.reading.conversation_rows import conversation_from_row
from eagle_hf.data.reading.conversations import read_conversations

QUESTION = {"role": "user", "content": "a"}
ANSWER = {"role": "assistant", "content": "x"}
SYSTEM = {"role": "system", "content": "s"}
SHAREGPT = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "x"}]
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
RESULT = {"role": "tool", "content": ""}


def read(row):
    """The conversation of a row."""
    return conversation_from_row(row, default_id="mine-1", source="mine")


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"messages": [QUESTION, ANSWER]}, [QUESTION, ANSWER]),
        ({"messages": [SYSTEM, QUESTION, ANSWER]}, [SYSTEM, QUESTION, ANSWER]),
        ({"conversations": SHAREGPT}, [QUESTION, ANSWER]),
        ({"conversations": SHAREGPT, "system": "s"}, [SYSTEM, QUESTION, ANSWER]),
        ({"conversation": SHAREGPT}, [QUESTION, ANSWER]),
        ({"prompt": "a", "completion": "x"}, [QUESTION, ANSWER]),
        ({"prompt": [QUESTION], "completion": [ANSWER]}, [QUESTION, ANSWER]),
        ({"prompt": "a", "response": "x"}, [QUESTION, ANSWER]),
        ({"instruction": "a", "input": "", "output": "x"}, [QUESTION, ANSWER]),
        (
            {"instruction": "a", "context": "b", "response": "x"},
            [{"role": "user", "content": "a\n\nb"}, ANSWER],
        ),
    ],
)
def test_messages_are_found_in_every_column(row, messages):
    conversation = read(row)
    assert conversation["messages"] == messages
    assert conversation["id"] == "mine-1"
    assert conversation["source"] == "mine"
    assert conversation["category"] == "other"


def test_what_the_template_needs_stays_in_the_row():
    messages = [QUESTION, CALL, RESULT, ANSWER | {"reasoning": "r", "tool_calls": None}]
    tools = [{"name": "f"}]
    row = {"messages": messages, "tools": tools, "chat_template_kwargs": {"a": 1}, "images": None}
    conversation = read(row)
    assert conversation["tools"] == tools
    assert conversation["chat_template_kwargs"] == {"a": 1}
    assert "images" not in conversation
    assert conversation["messages"][1]["tool_calls"] == CALL["tool_calls"]
    assert conversation["messages"][3] == ANSWER | {"reasoning": "r"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("text", "the row is of type str"),
        ({"text": "plain"}, "the row has the columns ['text']"),
        ({"turns": ["a"]}, "the row has the columns ['turns']"),
        ({"prompt": "a"}, "the row has the columns ['prompt']"),
        ({"messages": []}, "the messages are an empty list"),
        ({"messages": [ANSWER, QUESTION]}, "message 0 of role 'assistant' comes first"),
        ({"messages": [QUESTION, ANSWER, ANSWER]}, "message 2 of role 'assistant' follows"),
        ({"messages": [QUESTION, RESULT, ANSWER]}, "message 1 of role 'tool' follows 'user'"),
        ({"messages": [QUESTION, ANSWER, QUESTION]}, "the last message is from 'user'"),
        ({"messages": [QUESTION, ANSWER | {"content": ""}]}, "role 'assistant' is empty"),
        ({"messages": [QUESTION, ANSWER | {"content": None}]}, "of type NoneType"),
        ({"messages": [QUESTION, ANSWER | {"content": "\ud83d"}]}, "half a surrogate pair"),
        ({"messages": {"role": ["user"], "content": ["a"]}}, "the messages are of type dict"),
        ({"messages": [QUESTION, ANSWER | {"reasoning": "\ud83d"}]}, "half a surrogate pair"),
        ({"messages": [QUESTION, ANSWER], "tools": "x"}, "tools is no JSON"),
        ({"messages": [QUESTION, ANSWER | {"content": "", "reasoning": ""}]}, "is empty"),
    ],
)
def test_a_row_without_a_finished_conversation_is_refused_with_its_reason(row, reason):
    with pytest.raises(ValueError) as refusal:
        read(row)
    assert reason in str(refusal.value)


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "thinking"])
def test_an_answer_that_was_cut_while_it_thought_is_an_answer(name):
    messages = [QUESTION, {"role": "assistant", "content": "", name: "well"}]
    assert read({"messages": messages})["messages"] == messages


def test_the_ids_of_a_served_answer_say_what_it_is():
    messages = [QUESTION, {"role": "assistant", "content": ""}]
    turn = {"prompt_ids": [1], "response_ids": [2], "finish_reason": "stop"}
    row = {"messages": messages, "served_turns": [turn], "format": 2}
    conversation = read(row)
    assert conversation["served_turns"] == [turn]
    assert conversation["format"] == 2
    with pytest.raises(ValueError, match="message 0 of role 'user' is empty"):
        read(row | {"messages": [{"role": "user", "content": ""}, ANSWER]})


def test_a_file_without_a_conversation_is_refused_with_the_columns_needed(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"turns": ["a"]}))
    with pytest.raises(ValueError, match=r"none of 1 lines of mine.jsonl .* needed is one of"):
        read_conversations(path)
