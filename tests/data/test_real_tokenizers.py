"""Real tokenizers with their families' templates: the ids of service, to the token.

`make templates` fetches them.
"""

from typing import Any

import pytest
from any_template import learn, said_by_the_text, template_files
from chat_templates import ask, say
from template_archives import ADVICE, TOKENIZERS
from transformers import PreTrainedTokenizerFast

pytestmark = pytest.mark.slow

CHATML = ("<|im_end|>",)
EOT = ("<|eot_id|>",)
NO_THINKING = {"enable_thinking": False}
# Tokenizer, template (None: the tokenizer's own), and what ends a turn.
PAIRS = [
    ("qwen3", None, CHATML),
    ("qwen3", "trl/qwen2_5", CHATML),
    ("qwen3", "trl/qwen3_5_think", CHATML),
    ("qwen3", "trl/qwen3_6", CHATML),
    ("qwen3", "trl/qwen3_8", CHATML),
    ("qwen3", "trl/qwen3_instruct_2507", CHATML),
    ("gemma3", None, ("<end_of_turn>",)),
    ("gemma3", "trl/gemma3", ("<end_of_turn>",)),
    ("llama3", None, EOT),
    ("llama3_1", "trl/llama3_1", EOT),
    ("llama3_1", "trl/llama3_2", EOT),
    ("deepseek_v3", None, ("<｜end▁of▁sentence｜>",)),
    ("gptoss", "trl/gptoss", ("<|return|>", "<|call|>")),
]
HARD = [
    "The end.",
    " leading space",
    "\nleading newline",
    "\n\n\nthree of them",
    "trailing newline\n",
    "    indented\n\tcode:\n\n\n    x = 1  # two  spaces",
    "naïve café, 数据说话, Привет, 🙂👩‍👩‍👧",
    "▁under▁score and Ġ and <not a token>",
    "1234567890 3.14159",
    "</think",
    "'s contraction and\r\nreturns",
]


def opened(name: str, template: str | None) -> Any:
    """A tokenizer with a template."""
    folder = TOKENIZERS / name
    if not folder.is_dir():
        pytest.skip(f"the tokenizer of {name} is not at hand; {ADVICE}")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    if template is not None:
        files = template_files()
        if template not in files:
            pytest.skip(f"the template {template} is not at hand; {ADVICE}")
        tokenizer.chat_template = files[template].read_text(encoding="utf-8")
    return tokenizer


@pytest.mark.parametrize(("name", "template", "ends"), PAIRS)
def test_ids_are_those_that_a_server_would_make_of_prompt_and_text(name, template, ends):
    tokenizer = opened(name, template)
    left_out = 0
    for number, text in enumerate(HARD):
        other = HARD[(number + 3) % len(HARD)]
        messages = [ask(other), say(text), ask(f"{text} again"), say(other)]
        mode = NO_THINKING if "enable_thinking" in tokenizer.chat_template else {}
        expected = []
        for index in (1, 3):
            said = said_by_the_text(tokenizer, messages, index, set(ends), mode)
            assert said is not None
            expected.append(said)
        examples, reasons = learn(tokenizer, messages, set(ends), chat_template_kwargs=mode)
        found = ids_of_answers(examples)
        assert len(found) + len(reasons) == 2 or not found
        left_out += len(reasons)
        for prompt_ids, answer_ids in found:
            prompts = [said for said in expected if encode(tokenizer, said.prompt) == prompt_ids]
            whole = [encode(tokenizer, said.prompt + said.answer) for said in prompts]
            assert prompt_ids + answer_ids in whole
            assert tokenizer.convert_ids_to_tokens(answer_ids[-1]) in ends
        for reason in reasons:
            assert "joins the prompt's end" in reason
    # Whitespace that joins the prompt's is all that cannot be had from text.
    assert left_out <= 8


def encode(tokenizer: Any, text: str) -> list[int]:
    """What a server makes of a text."""
    return tokenizer.encode(text, add_special_tokens=False)


def ids_of_answers(examples: list) -> list[tuple[list[int], list[int]]]:
    """(ids before, ids) of each run of learnt tokens."""
    found = []
    for example in examples:
        ids = example["input_ids"]
        mask = example["loss_mask"]
        begin = 0
        while 1 in mask[begin:]:
            start = mask.index(1, begin)
            end = mask.index(0, start) if 0 in mask[start:] else len(mask)
            found.append((ids[:start], ids[start:end]))
            begin = end
    return found


def test_qwen3_learns_these_ids():
    tokenizer = opened("qwen3", "trl/qwen2_5")
    (example,), _ = learn(tokenizer, [ask("hi"), say("The end.")], set(CHATML))
    (_, answer) = ids_of_answers([example])[0]
    assert tokenizer.convert_ids_to_tokens(answer) == ["The", "Ġend", ".", "<|im_end|>"]
    assert answer[-1] == 151645


def test_an_open_thought_of_qwen3_5_is_learnt_with_reasoning_and_else_left_out():
    tokenizer = opened("qwen3", "trl/qwen3_5_think")
    thoughtful = [ask("hi"), say("yes.", reasoning="hm")]
    (example,), _ = learn(tokenizer, thoughtful, set(CHATML))
    ((before, answer),) = ids_of_answers([example])
    assert tokenizer.convert_ids_to_tokens(before[-2:]) == ["<think>", "Ċ"]
    assert tokenizer.convert_ids_to_tokens(answer) == [
        *("hm", "Ċ", "</think>", "ĊĊ", "yes", ".", "<|im_end|>")
    ]
    # The two newlines of an empty thought are one token, and the prompt ended with the first.
    examples, reasons = learn(tokenizer, [ask("hi"), say("yes.")], set(CHATML))
    assert examples == []
    assert "turn thinking off with chat_template_kwargs, give its reasoning" in reasons[0]


def test_gpt_oss_learns_its_channels_by_token():
    tokenizer = opened("gptoss", "trl/gptoss")
    messages = [ask("2 + 2?"), say("4", reasoning="easy"), ask("3?"), say("5", reasoning="well")]
    examples, reasons = learn(tokenizer, messages, {"<|return|>", "<|call|>"})
    assert reasons == []
    tokens = []
    for before, answer in ids_of_answers(examples):
        assert tokenizer.convert_ids_to_tokens(before[-2:]) == ["<|start|>", "assistant"]
        tokens.append(tokenizer.convert_ids_to_tokens(answer))
    opening = ["<|channel|>", "analysis", "<|message|>"]
    between = ["<|end|>", "<|start|>", "assistant", "<|channel|>", "final", "<|message|>"]
    assert tokens == [
        [*opening, "easy", *between, "4", "<|return|>"],
        [*opening, "well", *between, "5", "<|return|>"],
    ]
    # The analysis is the last turn's alone.
    assert "easy" not in tokenizer.decode(examples[1]["input_ids"])
