"""Reasoning, text and tool calls are parted where the tokenizer says how, and never by a guess."""

import json

import pytest
import torch
from chat_templates import end_ids, family_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from eagle_hf.data import load_conversations, prepare_examples, write_responses
from eagle_hf.data.answers.parsing import AnswerParser, ParsedAnswer

EASY = (
    "<|channel|>analysis<|message|>easy<|end|>"
    "<|start|>assistant<|channel|>final<|message|>4<|return|>"
)
CALL = (
    "<|channel|>analysis<|message|>look<|end|><|start|>assistant<|channel|>commentary "
    'to=functions.weather <|constrain|>json<|message|>{"city": "Oslo"}<|call|>'
)


def encode(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


def parse(name, response, prompt="", tokenizer=None, tools=None):
    """An answer of a family, in its parts."""
    tokenizer = tokenizer or family_tokenizer(name)
    stop = {*end_ids(name, tokenizer), tokenizer.convert_tokens_to_ids("<|call|>")}
    parser = AnswerParser(tokenizer, stop)
    return parser.parse(encode(tokenizer, prompt), encode(tokenizer, response), tools)


def called(name, arguments):
    return [{"type": "function", "function": {"name": name, "arguments": arguments}}]


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (EASY, ParsedAnswer("4", "easy")),
        (CALL, ParsedAnswer("", "look", called("weather", '{"city": "Oslo"}'))),
        ("<|channel|>final<|message|>4<|return|>", ParsedAnswer("4")),
        ("<|channel|>analysis<|message|>eas", ParsedAnswer("", "eas")),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assist", ParsedAnswer("", "a")),
        ("<|channel|>analysis", ParsedAnswer("<|channel|>analysis")),
        ("no channel<|return|>", ParsedAnswer("no channel")),
        (EASY.replace("<|channel|>final<|message|>", ""), None),
    ],
)
def test_channels_of_gpt_oss_are_parted(response, expected):
    # Words that stand in no channel are kept, with all the rest.
    whole = ParsedAnswer(response.removesuffix("<|return|>"))
    assert parse("gptoss", response) == (expected or whole)


def test_channels_of_gpt_oss_are_parted_as_transformers_parts_them():
    utils = pytest.importorskip("trl.chat_template_utils")
    tokenizer = family_tokenizer("gptoss")
    tokenizer.response_template = utils.gptoss_template
    assert parse("gptoss", EASY, tokenizer=tokenizer) == parse("gptoss", EASY)


@pytest.mark.parametrize(
    ("prompt", "response", "expected"),
    [
        ("", "<think>\nhm\n</think>\n\n4<|im_end|>", ParsedAnswer("4", "hm")),
        ("<think>\n", "hm\n</think>\n\n4<|im_end|>", ParsedAnswer("4", "hm")),
        ("<think>\n", "hm", ParsedAnswer("", "hm")),
        ("", "4<|im_end|>", ParsedAnswer("4")),
        ("<think>\n\n</think>\n\n", "4<|im_end|>", ParsedAnswer("4")),
        ("", "write </think> there<|im_end|>", ParsedAnswer("write </think> there")),
    ],
)
def test_marks_around_reasoning_are_parted(prompt, response, expected):
    assert parse("qwen3", response, prompt) == expected


def test_reasoning_without_an_opening_mark_ends_at_the_closing_token():
    name = "deepseek_r1_distill"
    tokenizer = family_tokenizer(name)
    tokenizer.add_tokens(["<think>", "</think>"])
    response = "hm</think>\n\n4<｜end▁of▁sentence｜>"
    assert parse(name, response, tokenizer=tokenizer) == ParsedAnswer("4", "hm")
    # Where the prompt closed the reasoning, the answer is all text.
    whole = parse(name, response, "<think>\n\n</think>\n\n", tokenizer)
    assert whole == ParsedAnswer("hm</think>\n\n4")


def test_a_text_that_imitates_a_mark_ends_no_reasoning():
    tokenizer = family_tokenizer("qwen3")
    tokenizer.add_tokens(["<think>", "</think>"])
    mark = tokenizer.convert_tokens_to_ids("</think>")
    parser = AnswerParser(tokenizer, end_ids("qwen3", tokenizer))
    prompt = encode(tokenizer, "<think>\n")
    imitated = [*b"a </think> b"]
    assert parser.parse(prompt, imitated) == ParsedAnswer("", "a </think> b")
    assert parser.parse(prompt, [*imitated, mark, *b"c"]) == ParsedAnswer("c", "a </think> b")


def test_marks_that_the_template_does_not_name_are_text():
    answer = "<think>hm</think>4"
    assert parse("qwen2_5", answer + "<|im_end|>") == ParsedAnswer(answer)


def test_a_response_template_goes_before_everything():
    utils = pytest.importorskip("trl.chat_template_utils")
    tokenizer = family_tokenizer("qwen3")
    tokenizer.response_template = utils.qwen3_template
    prompt = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    response = f"<think>\nhm\n</think>\n\nOne moment.\n{call}<|im_end|>"
    parsed = parse("qwen3", response, prompt, tokenizer)
    assert (parsed.reasoning.strip(), parsed.text.strip()) == ("hm", "One moment.")
    assert parsed.tool_calls == called("weather", {"city": "Oslo"})


def test_an_answer_that_does_not_follow_the_response_template_stays_whole():
    utils = pytest.importorskip("trl.chat_template_utils")
    tokenizer = family_tokenizer("qwen3")
    tokenizer.response_template = utils.qwen3_template
    prompt = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    broken = "<tool_call>\n{not JSON\n</tool_call>"
    assert parse("qwen3", broken + "<|im_end|>", prompt, tokenizer) == ParsedAnswer(broken)


def test_a_response_template_that_cannot_be_read_is_refused():
    tokenizer = family_tokenizer("qwen3")
    tokenizer.response_template = {"fields": {"content": {}}}
    with pytest.raises(ValueError, match="response_template cannot be read .*set it to None"):
        AnswerParser(tokenizer, {0})


class Saying(LlamaForCausalLM):
    """`generate` says one answer after the other."""

    answers: tuple = ()

    def generate(self, input_ids, **settings):
        answer = self.answers[self.calls]
        self.calls += 1
        return torch.cat([input_ids, torch.tensor([answer] * len(input_ids))], dim=1)


def saying(name, *answers):
    """(target, tokenizer) of a family, the target with a script."""
    tokenizer = family_tokenizer(name)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=4096,
        eos_token_id=sorted(end_ids(name, tokenizer)),
    )
    torch.manual_seed(0)
    target = Saying(config).eval()
    target.answers = [encode(tokenizer, answer) for answer in answers]
    target.calls = 0
    return target, tokenizer


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("gptoss", EASY, EASY.replace("4", "five").replace("easy", "hard")),
        (
            "qwen3",
            "<think>\neasy\n</think>\n\n4<|im_end|>",
            "<think>\nhard\n</think>\n\nfive<|im_end|>",
        ),
    ],
)
def test_a_thinking_target_answers_two_turns_and_is_learnt_as_it_spoke(
    name, first, second, tmp_path
):
    target, tokenizer = saying(name, first, second)
    prompts = [{"id": "p0", "turns": ["2 + 2?", "and 1?"], "category": "c", "source": "s"}]
    report = write_responses(target, tokenizer, prompts, tmp_path)
    assert (report.finished, report.skipped) == (1, [])
    [row] = [json.loads(line) for line in (tmp_path / "conversations.jsonl").open()]
    said = [message for message in row["messages"] if message["role"] == "assistant"]
    assert [message["content"] for message in said] == ["4", "five"]
    assert [message["reasoning_content"] for message in said] == ["easy", "hard"]
    # The second prompt shows the first answer, without what the target thought.
    shown = tokenizer.decode(row["served_turns"][1]["prompt_ids"])
    assert "4" in shown.rpartition("2 + 2?")[2]
    assert "easy" not in shown
    examples, skipped = prepare_examples(target, tokenizer, load_conversations(tmp_path))
    assert skipped == []
    learnt = []
    for example in examples:
        masked = zip(example["input_ids"], example["loss_mask"], strict=True)
        learnt.append([token for token, is_learnt in masked if is_learnt])
    assert learnt == [encode(tokenizer, first), encode(tokenizer, second)]
