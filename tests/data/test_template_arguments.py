"""What templates are given beside the messages: variables, tools, reasoning, the date."""

import datetime
import json
from typing import Any

import pytest
from chat_templates import (
    ENDS,
    THREE_TURNS,
    ask,
    end_ids,
    examples_of,
    family_tokenizer,
    learnt_text,
    say,
    template_source,
)

from eagle_hf.data import TemplateArguments, prepare_examples, tokenize_conversations
from eagle_hf.data.templates.template import render_text

WITH_TOOLS = (
    "gemma4_v5",
    "glm4moe",
    "gptoss",
    "lfm2_2_5",
    "llama3_1",
    "llama3_2",
    "muse_glimmer",
    "nemotron_3_nano",
    "nemotron_3_ultra",
    "qwen2_5",
    "qwen3",
    "qwen3_5_nothink",
    "qwen3_5_think",
    "qwen3_6",
    "qwen3_8",
    "qwen3_instruct_2507",
)
NO_THINKING = TemplateArguments({"enable_thinking": False})
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = {"type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
CALLING = [
    ask("Rome?"),
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "name": "get_weather", "content": "sunny"},
    say("It is sunny."),
]

# Of the templates with tools, those that show no reasoning.
WITHOUT_REASONING = ("llama3_1", "llama3_2", "qwen2_5", "qwen3_instruct_2507")
THOUGHTFUL = [
    CALLING[0],
    {**CALLING[1], "reasoning": "hm"},
    CALLING[2],
    {**CALLING[3], "reasoning": "hm"},
]


def reads_thinking(name: str) -> bool:
    """Whether a family's template knows `enable_thinking`."""
    return "enable_thinking" in template_source(name)


def test_variables_of_the_call_reach_the_prompt():
    tokenizer = family_tokenizer("nemotron_3_nano")
    stop = end_ids("nemotron_3_nano", tokenizer)
    with pytest.raises(ValueError, match="does not follow"):
        examples_of(tokenizer, [ask("a"), say("b")], stop=stop)
    (example,), _ = examples_of(
        tokenizer, [ask("a"), say("b")], stop=stop, template_arguments=NO_THINKING
    )
    assert learnt_text(tokenizer, example) == "b<|im_end|>"


@pytest.mark.parametrize("name", [name for name in ENDS if reads_thinking(name)])
def test_without_thinking_nothing_but_the_answers_is_learnt(name):
    tokenizer = family_tokenizer(name)
    examples, skipped = examples_of(
        tokenizer,
        THREE_TURNS,
        stop=end_ids(name, tokenizer),
        template_arguments=NO_THINKING,
    )
    assert skipped == []
    learnt = ""
    for example in examples:
        learnt += learnt_text(tokenizer, example)
    answers = learnt.replace("<|user|>", "").replace(ENDS[name], "").replace("\n", "")
    assert answers == "yes.no,not two.so so"


@pytest.mark.parametrize("own", [{"enable_thinking": True}, '{"enable_thinking": true}'])
def test_variables_of_a_row_win(own):
    tokenizer = family_tokenizer("qwen3")
    stop = end_ids("qwen3", tokenizer)
    of_call = {"stop": stop, "template_arguments": NO_THINKING}
    messages = [ask("a"), say("b")]
    (plain,), _ = examples_of(tokenizer, messages, **of_call)
    (thinking,), _ = examples_of(tokenizer, messages, row={"chat_template_kwargs": own}, **of_call)
    assert learnt_text(tokenizer, plain) == "b<|im_end|>"
    assert learnt_text(tokenizer, thinking) == "<think>\n\n</think>\n\nb<|im_end|>"


def test_a_variable_that_the_template_never_reads_is_refused_first():
    tokenizer = family_tokenizer("qwen2_5")
    with pytest.raises(ValueError, match="reads no enable_thinking"):
        tokenize_conversations(
            [], tokenizer, eos_token_ids={1}, max_length=None, template_arguments=NO_THINKING
        )


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", "chat_template"])
def test_what_is_no_variable_of_a_template_is_refused(name):
    with pytest.raises(ValueError, match=f"hold {name}, which is no variable"):
        TemplateArguments({name: 1})


@pytest.mark.parametrize("value", ["[1]", "{", 3])
def test_variables_that_are_no_object_are_refused(value):
    with pytest.raises(ValueError, match="chat_template_kwargs is"):
        TemplateArguments.read(value)


@pytest.mark.parametrize("name", ["llama3_2", "gptoss"])
def test_the_date_is_the_runs(name):
    tokenizer = family_tokenizer(name)
    arguments = TemplateArguments(date=datetime.date(2031, 2, 3))
    text = render_text(tokenizer, [ask("a")], arguments=arguments)
    assert "2031-02-03" in text or "03 Feb 2031" in text
    assert datetime.date.today().isoformat() in render_text(family_tokenizer("gptoss"), [ask("a")])


def test_a_date_in_a_computed_form_is_refused():
    tokenizer = family_tokenizer("qwen2_5")
    tokenizer.chat_template = "{{ strftime_now(form) }}"
    with pytest.raises(ValueError, match="in which form it writes today's date"):
        render_text(tokenizer, [ask("a")])


@pytest.mark.parametrize("name", ENDS)
def test_a_conversation_with_tools_is_learnt_or_refused_by_name(name):
    tokenizer = family_tokenizer(name)
    row: dict[str, Any] = {"tools": [WEATHER]}
    if reads_thinking(name):
        row["chat_template_kwargs"] = {"enable_thinking": True}
    settings = {"stop": end_ids(name, tokenizer), "row": row}
    # gpt-oss drops the thought before a call once there is an answer, see below.
    messages = CALLING if name in ("gptoss", *WITHOUT_REASONING) else THOUGHTFUL
    if name not in WITH_TOOLS:
        with pytest.raises(ValueError, match="does not show the tool|refuses messages"):
            examples_of(tokenizer, messages, **settings)
        return
    examples, skipped = examples_of(tokenizer, messages, **settings)
    assert skipped == []
    learnt = "".join(learnt_text(tokenizer, example) for example in examples)
    for word in ("get_weather", "Rome", "It is sunny."):
        assert word in learnt
    assert "Weather of a city." not in learnt


@pytest.mark.parametrize("name", WITHOUT_REASONING)
def test_reasoning_that_a_template_drops_leaves_the_answer_out(name):
    tokenizer = family_tokenizer(name)
    messages = [ask("a"), say("b", reasoning="hm"), ask("c"), say("d")]
    (example,), skipped = examples_of(tokenizer, messages, stop=end_ids(name, tokenizer))
    assert learnt_text(tokenizer, example) == f"d{ENDS[name]}"
    ((of, reason),) = skipped
    assert of == "a, message 1"
    assert "drops or changes the reasoning 'hm'" in reason


def test_an_answer_before_which_history_changes_is_left_out_and_named():
    tokenizer = family_tokenizer("gptoss")
    stop = end_ids("gptoss", tokenizer)
    (example,), skipped = examples_of(tokenizer, THOUGHTFUL, stop=stop, row={"tools": [WEATHER]})
    learnt = learnt_text(tokenizer, example)
    assert "hm" in learnt
    assert learnt.endswith('{"city": "Rome"}<|call|>')
    (left_out,) = skipped
    assert left_out.id == "a, message 3"
    assert "does not follow the template's generation prompt" in left_out.reason


@pytest.mark.parametrize("tools", [[WEATHER], json.dumps([WEATHER])])
def test_tools_and_calls_are_rendered(tools):
    tokenizer = family_tokenizer("qwen2_5")
    stop = end_ids("qwen2_5", tokenizer)
    examples, skipped = examples_of(tokenizer, CALLING, stop=stop, row={"tools": tools})
    assert skipped == []
    learnt = learnt_text(tokenizer, examples[0])
    assert '{"name": "get_weather", "arguments": {"city": "Rome"}}' in learnt
    assert learnt.endswith("It is sunny.<|im_end|>")
    assert "Weather of a city." in tokenizer.decode(examples[0]["input_ids"])


def test_tools_that_a_template_does_not_show_are_refused():
    tokenizer = family_tokenizer("phi3")
    with pytest.raises(ValueError, match="does not show the tool 'get_weather'"):
        examples_of(
            tokenizer,
            [ask("Rome?"), say("Sunny.")],
            stop=end_ids("phi3", tokenizer),
            row={"tools": [WEATHER]},
        )


def test_a_call_that_a_template_drops_is_refused():
    tokenizer = family_tokenizer("llama3")
    messages = [ask("Rome?"), say("Let me see.", tool_calls=[CALL])]
    with pytest.raises(
        ValueError, match="drops the call of 'get_weather' from assistant message 1"
    ):
        examples_of(tokenizer, messages, stop=end_ids("llama3", tokenizer))


def test_arguments_of_a_call_may_be_json_text():
    tokenizer = family_tokenizer("glm4moe")  # reads a mapping alone
    parsed = {**CALL, "function": {**CALL["function"], "arguments": {"city": "Rome"}}}
    texts = []
    for call in (CALL, parsed):
        texts.append(render_text(tokenizer, [ask("a"), say("", tool_calls=[call])]))
    assert texts[0] == texts[1]
    assert "<arg_value>Rome</arg_value>" in texts[0]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "thinking"])
@pytest.mark.parametrize(("family", "shown"), [("qwen3", "<think>\nhm\n"), ("gptoss", "hm<|end|>")])
def test_reasoning_is_learnt_under_each_of_its_names(family, shown, name):
    tokenizer = family_tokenizer(family)
    messages = [ask("a"), say("b", **{name: "hm"})]
    (example,), _ = examples_of(tokenizer, messages, stop=end_ids(family, tokenizer))
    assert shown in learnt_text(tokenizer, example)


def test_half_a_surrogate_skips_its_row_alone():
    tokenizer = family_tokenizer("qwen2_5")
    rows = [
        {"id": "torn", "messages": [ask("a\ud83d"), say("b")]},
        {"id": "whole", "messages": [ask("a"), say("b")]},
    ]
    stop = end_ids("qwen2_5", tokenizer)
    examples, skipped = tokenize_conversations(rows, tokenizer, eos_token_ids=stop, max_length=None)
    assert [example["id"] for example in examples] == ["whole"]
    assert skipped[0].id == "torn"
    assert "half a surrogate" in skipped[0].reason


def test_a_row_with_a_misspelt_variable_is_left_out_by_name(target, tokenizer):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    good = {"id": "good", "messages": messages}
    bad = {"id": "bad", "messages": messages, "chat_template_kwargs": {"enable_thinkng": False}}
    examples, [skipped] = prepare_examples(target, tokenizer, [good, bad])
    assert [example["id"] for example in examples] == ["good"]
    assert skipped.id == "bad"
    assert "reads no enable_thinkng" in skipped.reason
