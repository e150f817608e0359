"""Real chat templates, all that are at hand: each answer is learnt as rendered, or named.

`make templates` fetches llama.cpp's; trl's are those of the installed trl.
"""

from typing import Any

import pytest
from any_template import (
    USES,
    end_texts,
    learn,
    marked_tokenizer,
    said_by_the_examples,
    said_by_the_text,
    template_files,
)
from chat_templates import THREE_TURNS, ask, say
from template_archives import ADVICE, LLAMACPP

from eagle_hf.data.templates.thoughts import EMPTY_THOUGHT, THOUGHT_MARKS

pytestmark = pytest.mark.slow

FILES = template_files()
MODES = ({}, {"enable_thinking": False}, {"enable_thinking": True}, {"thinking": True})
NEEDS_TOOLS = {
    "llamacpp/CohereForAI-c4ai-command-r-plus-tool_use",
    "llamacpp/NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
    "llamacpp/NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
    "llamacpp/fireworks-ai-llama-3-firefunction-v2",
}
# Their generation prompt opens a thought, which a plain answer does not have.
OPEN_A_THOUGHT = {
    "trl/deepseek_r1_distill",
    "trl/deepseekv3",
    "trl/nemotron_3_5_lightning",
    "trl/nemotron_3_nano",
    "trl/nemotron_3_super",
    "trl/nemotron_3_ultra",
    "llamacpp/Apriel-1.6-15b-Thinker-fixed",
    "llamacpp/Cohere2MoE",
    "llamacpp/GLM-4.7-Flash",
    "llamacpp/MiniMax-M2",
    "llamacpp/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    "llamacpp/Spark2.5",
    "llamacpp/deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "llamacpp/llama-cpp-deepseek-r1",
}
CALL = {"name": "get_weather", "arguments": {"city": "Rome"}}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def test_templates_of_llamacpp_are_at_hand():
    if not LLAMACPP.is_dir():
        pytest.skip(f"llama.cpp's chat templates are not at hand; {ADVICE}")
    assert len(FILES) >= 100


def opened(name: str) -> Any:
    """(tokenizer, ends, source) of a template."""
    source = FILES[name].read_text(encoding="utf-8")
    tokenizer = marked_tokenizer(source)
    return tokenizer, end_texts(name, tokenizer), source


def modes(source: str) -> list[dict]:
    """The thinking modes that a template reads, and the one without any."""
    return [mode for mode in MODES if all(variable in source for variable in mode)]


@pytest.mark.parametrize("name", FILES)
def test_every_answer_is_learnt_as_rendered_or_left_out_and_named(name):
    if name in NEEDS_TOOLS:
        pytest.skip("the template renders nothing without tools")
    tokenizer, ends, source = opened(name)
    for mode in modes(source):
        for messages in (THREE_TURNS[:2], THREE_TURNS[:4], THREE_TURNS):
            examples, reasons = learn(tokenizer, messages, ends, chat_template_kwargs=mode)
            found = said_by_the_examples(tokenizer, examples)
            expected = []
            for index in range(1, len(messages), 2):
                expected.append(said_by_the_text(tokenizer, messages, index, ends, mode))
            if None in expected:
                check_composed(found, messages, reasons)
            else:
                assert sorted(found) == sorted(expected)
                assert reasons == []


def check_composed(found, messages, reasons):
    """Answers of templates that render thoughts of history anew: behind an empty one, or named."""
    answers = [message["content"] for message in messages[1::2]]
    if not found:
        assert "does not follow the template's generation prompt" in reasons[0]
        return
    assert reasons == []
    for (prompt, said), answer in zip(found, answers, strict=True):
        assert EMPTY_THOUGHT.search(prompt)
        assert answer in said
        assert not THOUGHT_MARKS.search(said)


@pytest.mark.parametrize("name", FILES)
def test_a_plain_conversation_of_two_turns_is_refused_only_for_a_thought_or_tools(name):
    source = FILES[name].read_text(encoding="utf-8")
    tokenizer = marked_tokenizer(source)
    if name in NEEDS_TOOLS:
        with pytest.raises(ValueError, match="give the tools"):
            end_texts(name, tokenizer)
        return
    examples, _ = learn(tokenizer, THREE_TURNS[:4], end_texts(name, tokenizer))
    assert bool(examples) == (name not in OPEN_A_THOUGHT)


@pytest.mark.parametrize("name", sorted(OPEN_A_THOUGHT & set(FILES)))
def test_the_thought_makes_the_answer_learnable(name):
    tokenizer, ends, _ = opened(name)
    inside = [ask("one?"), say("<think>\nhm\n</think>\n\nyes.")]
    beside = [ask("one?"), say("yes.", reasoning="hm")]
    learnt = []
    for messages in (inside, beside):
        examples, _ = learn(tokenizer, messages, ends)
        learnt += said_by_the_examples(tokenizer, examples)
    if "Apriel" in name:
        assert learnt == []  # its thought is no tag, and history loses it
        return
    assert learnt
    for prompt, said in learnt:
        assert "hm" in said
        assert said.index("hm") < said.index("yes.")
        assert "one?" in prompt


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("as_text", [False, True])
def test_a_conversation_with_tools_is_learnt_whole_or_named(name, as_text):
    source = FILES[name].read_text(encoding="utf-8")
    tokenizer = marked_tokenizer(source)
    ends = {tokenizer.eos_token}
    if name not in NEEDS_TOOLS:
        ends = end_texts(name, tokenizer)
    arguments: Any = '{"city": "Rome"}' if as_text else {"city": "Rome"}
    call = {"id": "call00001", "type": "function", "function": {**CALL, "arguments": arguments}}
    messages = [
        ask("Weather?"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {
            "role": "tool",
            "tool_call_id": "call00001",
            "name": "get_weather",
            "content": "hot and dry",
        },
        say("It is fine."),
    ]
    examples, reasons = learn(tokenizer, messages, ends, tools=[WEATHER])
    found = said_by_the_examples(tokenizer, examples)
    assert len(found) + len(reasons) >= 1
    for reason in reasons:
        assert reason
    for prompt, said in found:
        assert "get_weather" in prompt
        assert ("get_weather" in said and "Rome" in said) or "It is fine." in said
        assert "hot and dry" not in said
        assert "Weather of a city." not in said
        if "It is fine." in said:
            assert "hot and dry" in prompt


@pytest.mark.parametrize("name", FILES)
def test_reasoning_is_learnt_under_each_name_alike_or_left_out(name):
    if name in NEEDS_TOOLS:
        pytest.skip("the template renders nothing without tools")
    tokenizer, ends, source = opened(name)
    for mode in modes(source):
        by_name = []
        for field in ("reasoning", "reasoning_content", "thinking"):
            messages = [ask("one?"), say("yes.", **{field: "hm, well"})]
            examples, reasons = learn(tokenizer, messages, ends, chat_template_kwargs=mode)
            found = said_by_the_examples(tokenizer, examples)
            by_name.append((found, len(reasons)))
            for _, said in found:
                assert "hm, well" in said
                assert "yes." in said
            assert bool(found) != bool(reasons)
        assert by_name[0] == by_name[1] == by_name[2]


@pytest.mark.parametrize("name", FILES)
def test_a_template_that_ignores_the_system_message_is_named(name):
    source = FILES[name].read_text(encoding="utf-8")
    tokenizer = marked_tokenizer(source)
    if name in NEEDS_TOOLS:
        pytest.skip("the template renders nothing without tools")
    ends = end_texts(name, tokenizer)
    messages = [{"role": "system", "content": "Speak like a parrot."}, *USES]
    examples, reasons = learn(tokenizer, messages, ends)
    for prompt, _ in said_by_the_examples(tokenizer, examples):
        assert "Speak like a parrot." in prompt
    assert bool(examples) != bool(reasons)
