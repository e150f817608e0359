"""Answers behind generation prompts that open a thought, or close an empty one."""

import pytest
from chat_templates import ask, end_ids, examples_of, family_tokenizer, learnt_text, say

from eagle_hf.data import TemplateArguments
from eagle_hf.data.templates.thoughts import served_text

END = "<｜end▁of▁sentence｜>"
HEAD = "<user>one?<assistant>"


@pytest.mark.parametrize(
    ("prompt_end", "rendered_end", "said"),
    [
        ("<think>\n\n</think>\n\n", "yes", "yes"),
        ("<think></think>", "</think>yes", "yes"),
        ("<think>\n</think>", "<think>\n\n</think>\n\nyes", "yes"),
        ("<|channel>thought\n<channel|>", "yes", "yes"),
        ("<|START_THINKING|><|END_THINKING|>", "<|START_RESPONSE|>yes", "<|START_RESPONSE|>yes"),
    ],
)
def test_behind_an_empty_thought_comes_the_answer(prompt_end, rendered_end, said):
    text = served_text(HEAD + prompt_end, HEAD + rendered_end + END, say("yes"))
    assert text == HEAD + prompt_end + said + END


@pytest.mark.parametrize(
    "rendered_end",
    ["<think>\nhm\n</think>\n\nyes", "<|channel>thought\nhm<channel|>yes"],
)
def test_a_thought_behind_an_empty_thought_is_nothing_that_was_served(rendered_end):
    prompt = HEAD + "<think>\n\n</think>\n\n"
    assert served_text(prompt, HEAD + rendered_end + END, say("yes")) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("<think>\nhm\n</think>\n\nyes", "hm\n</think>\n\nyes"),
        ("hm\n</think>\n\nyes", "hm\n</think>\n\nyes"),
        ("<think>hm</think>yes", "hm</think>yes"),
    ],
)
def test_an_answer_with_its_thought_goes_on_from_the_open_one(content, said):
    prompt = HEAD + "<think>\n"
    text = served_text(prompt, HEAD + "yes" + END + "\n", say(content))
    assert text == prompt + said + END + "\n"


@pytest.mark.parametrize("content", ["yes", "<think>\nhm\n</think>\n\n", "hm</think>no"])
def test_an_open_thought_is_not_invented(content):
    prompt = HEAD + "<think>\n"
    assert served_text(prompt, HEAD + "yes" + END, say(content)) is None


@pytest.mark.parametrize("name", ["deepseek_r1_distill", "deepseekv3"])
def test_one_turn_of_deepseek_r1_is_learnt_with_its_thought(name):
    tokenizer = family_tokenizer(name)
    messages = [ask("one?"), say("<think>\nhm\n</think>\n\nyes.")]
    (example,), skipped = examples_of(tokenizer, messages, stop=end_ids(name, tokenizer))
    assert skipped == []
    prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, tokenize=False)
    assert prompt.endswith("<think>\n")
    said = f"hm\n</think>\n\nyes.{END}"
    assert example["input_ids"] == tokenizer.encode(prompt + said, add_special_tokens=False)
    assert learnt_text(tokenizer, example) == said


def test_two_turns_of_deepseek_r1_are_two_examples_without_earlier_thoughts():
    tokenizer = family_tokenizer("deepseek_r1_distill")
    messages = [
        ask("one?"),
        say("<think>\nhm\n</think>\n\nyes."),
        ask("two?"),
        say("<think>\nso\n</think>\n\nno."),
    ]
    stop = end_ids("deepseek_r1_distill", tokenizer)
    examples, skipped = examples_of(tokenizer, messages, stop=stop)
    assert skipped == []
    learnt = [learnt_text(tokenizer, example) for example in examples]
    assert learnt == [f"hm\n</think>\n\nyes.{END}", f"so\n</think>\n\nno.{END}"]
    second = tokenizer.decode(examples[1]["input_ids"])
    assert f"\n\nyes.{END}" in second
    assert "hm" not in second


def test_an_answer_without_the_thought_that_the_prompt_opens_is_refused_with_the_remedies():
    tokenizer = family_tokenizer("deepseek_r1_distill")
    stop = end_ids("deepseek_r1_distill", tokenizer)
    with pytest.raises(ValueError, match="give the answer its thought inside the content") as info:
        examples_of(tokenizer, [ask("one?"), say("yes.")], stop=stop)
    assert "chat_template_kwargs" in str(info.value)
    assert "let the target answer" in str(info.value)


def test_a_thought_in_a_mode_without_thinking_is_left_out():
    tokenizer = family_tokenizer("qwen3")
    messages = [ask("one?"), say("yes.", reasoning="hm"), ask("two?"), say("no.")]
    (example,), skipped = examples_of(
        tokenizer,
        messages,
        stop=end_ids("qwen3", tokenizer),
        template_arguments=TemplateArguments({"enable_thinking": False}),
    )
    assert learnt_text(tokenizer, example) == "no.<|im_end|>"
    assert [one.id for one in skipped] == ["a, message 1"]
