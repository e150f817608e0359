"""Variables of the template reach every place that renders, or are refused by name."""

import pytest

from eagle_hf import SelfSpeculation
from eagle_hf.data import (
    TemplateArguments,
    first_turn_ids,
    load_suite,
    long_prompts,
    magpie_prompts,
    with_template_variables,
)
from eagle_hf.data.templates.template import user_turn_prefix
from eagle_hf.measuring.plans import questions

TONED = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}{{ tone | default('') }}\n"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{{ tone | default('') }}\n{% endif %}"
)
WARM = {"tone": " warmly"}


@pytest.fixture
def toned(tokenizer):
    """A tokenizer whose template reads `tone`."""
    tokenizer.chat_template = TONED
    return tokenizer


def test_prompts_to_evaluate_on_are_rendered_with_them(toned):
    (prompt,) = with_template_variables(load_suite(["math"], 1), toned, '{"tone": " warmly"}')
    text = toned.decode(first_turn_ids(toned, prompt)["input_ids"][0])
    assert text.startswith("<|im_start|>user warmly\n")
    assert text.endswith("<|im_start|>assistant warmly\n")


def test_a_prompts_own_win(toned):
    own = {**load_suite(["math"], 1)[0], "chat_template_kwargs": {"tone": " coldly"}}
    (prompt,) = with_template_variables([own], toned, WARM)
    assert "assistant coldly" in toned.decode(first_turn_ids(toned, prompt)["input_ids"][0])
    (untouched,) = with_template_variables([own], toned, None)
    assert untouched == own


def test_a_plan_is_measured_on_prompts_rendered_with_them(toned):
    assistant = SelfSpeculation(4, 8)
    starts = questions(toned, assistant, ["math"], 1, 200, WARM)
    assert toned.decode(starts[0][0]).endswith("<|im_start|>assistant warmly\n")


def test_long_prompts_are_rendered_with_them(toned):
    ids = long_prompts(toned, 200, 1, ["math"], TemplateArguments(WARM))
    text = toned.decode(ids[0])
    assert text.startswith("<|im_start|>user warmly\n")
    assert text.endswith("<|im_start|>assistant warmly\n")
    assert ids.shape == (1, 200)


def test_magpie_starts_from_a_prompt_rendered_with_them(toned):
    prefix = user_turn_prefix(toned, arguments=TemplateArguments(WARM))
    assert prefix == "<|im_start|>user warmly\n"


@pytest.mark.parametrize("call", ["suite", "plan", "magpie"])
def test_one_that_the_template_never_reads_is_refused_first(scripted, toned, call):
    unread = {"mood": "bright"}
    with pytest.raises(ValueError, match="the chat template reads no mood"):
        if call == "suite":
            with_template_variables(load_suite(["math"], 1), toned, unread)
        elif call == "plan":
            questions(toned, None, ["math"], 1, 100, unread)
        else:
            magpie_prompts(scripted, toned, 1, template_arguments=TemplateArguments(unread))
    assert scripted.calls == 0
