"""Answers kept by token: what is written, what is learnt of it, and what is refused."""

import json

import pytest
import torch
from chat_templates import ask, examples_of, learnt_text, say

from eagle_hf.data import TemplateArguments, load_conversations, prepare_examples
from eagle_hf.data.answers.responses import write_responses

START, END = 256, 257


def encode(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


def served(tokenizer, *turns, **more):
    """A row of (prompt, answer) texts; an answer without an end was cut."""
    messages = []
    kept = []
    for prompt, answer in turns:
        messages += [ask(prompt), say(answer.removesuffix("<|im_end|>"))]
        ids = {"prompt_ids": encode(tokenizer, prompt), "response_ids": encode(tokenizer, answer)}
        kept.append({**ids, "finish_reason": "stop"})
    return {"format": 2, "id": "a", "messages": messages, "served_turns": kept, **more}


def learnt(tokenizer, row, **settings):
    """What is learnt of a row, by example."""
    examples, _ = examples_of(tokenizer, row["messages"], stop={END}, row=row, **settings)
    return [learnt_text(tokenizer, example) for example in examples]


def test_answers_are_written_by_token(scripted, tokenizer, make_prompts, tmp_path):
    write_responses(scripted, tokenizer, make_prompts("a|b"), tmp_path, max_new_tokens=9)
    (row,) = [json.loads(line) for line in (tmp_path / "conversations.jsonl").open()]
    assert row["format"] == 2
    first, second = row["served_turns"]
    assert first["prompt_ids"] == encode(
        tokenizer, "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    )
    assert first["response_ids"] == [*b"hello", END]
    assert first["finish_reason"] == "stop"
    assert second["prompt_ids"][: len(first["prompt_ids"])] == first["prompt_ids"]
    assert [message["content"] for message in row["messages"]] == ["a", "hello", "b", "hello"]


def test_written_answers_are_learnt_as_they_were_sampled(
    scripted, tokenizer, make_prompts, tmp_path
):
    write_responses(scripted, tokenizer, make_prompts("a|b", "c"), tmp_path, max_new_tokens=9)
    rows = load_conversations(tmp_path)
    examples, skipped = prepare_examples(scripted, tokenizer, rows)
    assert skipped == []
    texts = {example["id"]: learnt_text(tokenizer, example) for example in examples}
    assert texts == {"p0": "hello<|im_end|>hello<|im_end|>", "p1": "hello<|im_end|>"}


def test_a_cut_answer_teaches_no_end(scripted, tokenizer, make_prompts, tmp_path):
    scripted.ends = False
    write_responses(scripted, tokenizer, make_prompts("a|b"), tmp_path, max_new_tokens=4)
    (row,) = [json.loads(line) for line in (tmp_path / "conversations.jsonl").open()]
    assert [turn["finish_reason"] for turn in row["served_turns"]] == ["length", "length"]
    examples, _ = prepare_examples(scripted, tokenizer, [row])
    assert [learnt_text(tokenizer, example) for example in examples] == ["hellhell"]


def test_an_answer_that_tokenises_otherwise_in_the_next_prompt_parts_the_examples(tokenizer):
    row = served(tokenizer, ("p", "yes<|im_end|>"), ("p yes q", "no<|im_end|>"))
    assert learnt(tokenizer, row) == ["yes<|im_end|>", "no<|im_end|>"]
    row = served(tokenizer, ("p", "yes<|im_end|>"), ("pyes<|im_end|>q", "no<|im_end|>"))
    assert learnt(tokenizer, row) == ["yes<|im_end|>no<|im_end|>"]
    assert learnt(tokenizer, row, train_on="last_turn") == ["no<|im_end|>"]


def test_special_tokens_inside_an_answer_are_learnt_and_shown(tokenizer):
    row = served(tokenizer, ("p", "hm<|im_start|>yes<|im_end|>"))
    assert row["served_turns"][0]["response_ids"] == [*b"hm", START, *b"yes", END]
    assert row["messages"][1]["content"] == "hm<|im_start|>yes"
    assert learnt(tokenizer, row) == ["hm<|im_start|>yes<|im_end|>"]


def test_special_tokens_inside_an_answer_allow_no_further_turn(
    scripted, tokenizer, make_prompts, tmp_path, monkeypatch
):
    def generate(self, input_ids, **settings):
        answer = torch.tensor([[*b"hm", START, *b"yes", END]])
        return torch.cat([input_ids, answer.expand(len(input_ids), -1)], dim=1)

    monkeypatch.setattr(type(scripted), "generate", generate)
    report = write_responses(
        scripted, tokenizer, make_prompts("a", "b|c"), tmp_path, max_new_tokens=9
    )
    assert report.finished == 1
    ((name, reason),) = report.skipped
    assert name == "p1"
    assert "'hm<|im_start|>yes'" in reason


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"messages": [ask("p"), say("no")]}, "'no' is not what its ids decode to"),
        ({"format": 3}, "format 3, and 2 is read"),
        ({"served_turns": []}, "1 answers and 0 served_turns"),
        ({"served_turns": [{"prompt_ids": [1]}]}, "response_ids of a turn is of type NoneType"),
    ],
)
def test_rows_whose_ids_cannot_be_trusted_are_refused(tokenizer, change, text):
    row = {**served(tokenizer, ("p", "yes<|im_end|>")), **change}
    with pytest.raises(ValueError, match=text):
        learnt(tokenizer, row)


def test_old_rows_still_open(tokenizer, target):
    rows = [{"id": "a", "messages": [ask("p"), say("yes")], "source": "s", "category": "c"}]
    (example,), _ = prepare_examples(target, tokenizer, rows)
    assert learnt_text(tokenizer, example) == "yes<|im_end|>"


def test_the_template_is_given_the_variables_of_run_and_prompt(
    scripted, tokenizer, make_prompts, tmp_path
):
    tokenizer.chat_template = "{{ mood }}" + tokenizer.chat_template
    prompts = make_prompts("a", "b")
    prompts[1]["chat_template_kwargs"] = {"mood": "glad"}
    arguments = TemplateArguments({"mood": "sad"})
    settings = {"max_new_tokens": 9, "template_arguments": arguments}
    write_responses(scripted, tokenizer, prompts, tmp_path, **settings)
    rows = [json.loads(line) for line in (tmp_path / "conversations.jsonl").open()]
    moods = {}
    for row in rows:
        moods[row["id"]] = tokenizer.decode(row["served_turns"][0]["prompt_ids"])[:4]
    assert moods == {"p0": "sad<", "p1": "glad"}
    with pytest.raises(ValueError, match="chat_template_kwargs is .*sad.* there and None now"):
        write_responses(scripted, tokenizer, prompts, tmp_path, max_new_tokens=9)


def test_a_folder_keeps_the_date_of_its_first_run(scripted, tokenizer, make_prompts, tmp_path):
    tokenizer.chat_template = "{{ strftime_now('%Y') }}" + tokenizer.chat_template
    write_responses(scripted, tokenizer, make_prompts("a"), tmp_path, max_new_tokens=9)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["date"] = "1999-12-31"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    write_responses(scripted, tokenizer, make_prompts("a", "b"), tmp_path, max_new_tokens=9)
    rows = [json.loads(line) for line in (tmp_path / "conversations.jsonl").open()]
    assert tokenizer.decode(rows[1]["served_turns"][0]["prompt_ids"]).startswith("1999<")
