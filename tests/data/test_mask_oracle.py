"""Masks against `renderers`, which writes each family's conversations token by token by hand.

It says of each token whether the target samples it. `make templates` fetches it.
"""

import importlib
import inspect
import re
import sys
from typing import Any

import pytest
from any_template import end_texts, learn, marked_tokenizer, template_files
from chat_templates import THREE_TURNS, ask, say
from template_archives import ADVICE, RENDERERS

pytestmark = pytest.mark.slow

# The oracle's name of a family, and the template that it follows to the letter.
FAMILIES = {
    "deepseek-r1": "trl/deepseek_r1_distill",
    "deepseek-v3": "trl/deepseekv3",
    "gemma4": "trl/gemma4_v5",
    "glm-4.5": "trl/glm4moe",
    "glm-5": "llamacpp/GLM-4.7-Flash",
    "kimi-k2": "llamacpp/Kimi-K2-Instruct",
    "laguna-s-2.1": "llamacpp/poolside-Laguna-S-2.1",
    "laguna-xs.2": "llamacpp/poolside-Laguna-XS.2",
    "llama-3": "llamacpp/meta-llama-Llama-3.2-3B-Instruct",
    "minimax-m2": "llamacpp/MiniMax-M2",
    "nemotron-3": "trl/nemotron_3_nano",
    "nemotron-3-ultra": "trl/nemotron_3_ultra",
    "nemotron-3.5": "trl/nemotron_3_5_lightning",
    "qwen3": "trl/qwen3",
    "qwen3-vl": "trl/qwen3_vl",
    "qwen3.5": "trl/qwen3_5_think",
    "qwen3.6": "trl/qwen3_6",
    "qwen3.8": "trl/qwen3_8",
}
DEEPSEEK = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")
BOS_AND_EOS = {
    "deepseek-r1": DEEPSEEK,
    "deepseek-v3": DEEPSEEK,
    "llama-3": ("<|begin_of_text|>", "<eos>"),
}
# They take another default system message, or another default thinking mode, than the template.
OTHER_PROMPT = ("deepseek-v3", "kimi-k2", "llama-3", "minimax-m2")
QUOTED_MARKER = re.compile(r"[\"']([<\]\[〈][^\"'{}\\ ]{1,45}[>\]\[〉])[\"']")

REASONED = [
    ask("one?"),
    say("yes.", reasoning_content="hm A"),
    ask("two?"),
    say("no,\nnot two.", reasoning_content="hm B"),
]


def oracle_class(family: str) -> Any:
    """The oracle's class of a family."""
    if not RENDERERS.is_dir():
        pytest.skip(f"renderers is not at hand; {ADVICE}")
    if str(RENDERERS) not in sys.path:
        sys.path.append(str(RENDERERS))
    base = importlib.import_module("renderers.base")
    base._populate_registry()
    return base.RENDERER_REGISTRY[family]


def oracle_and_tokenizer(family: str) -> tuple[Any, Any]:
    """The oracle of a family, and a tokenizer that knows all of its markers."""
    renderer = oracle_class(family)
    name = FAMILIES[family]
    files = template_files()
    if name not in files:
        pytest.skip(f"the template {name} is not at hand; {ADVICE}")
    markers = set()
    for parent in renderer.__mro__:
        if parent.__module__.startswith("renderers."):
            source = inspect.getsource(sys.modules[parent.__module__])
            markers.update(QUOTED_MARKER.findall(source))
    bos, eos = BOS_AND_EOS.get(family, ("<bos>", "<eos>"))
    source = files[name].read_text(encoding="utf-8")
    tokenizer = marked_tokenizer(source, tuple(markers - {"<tools>", "</tools>"}), bos, eos)
    return importlib.import_module("renderers").create_renderer(
        tokenizer, config_of(family)
    ), tokenizer


def config_of(family: str) -> Any:
    """The oracle's settings of a family."""
    configs = importlib.import_module("renderers.configs")
    for one in vars(configs).values():
        fields = getattr(one, "model_fields", {})
        if "name" in fields and fields["name"].default == family:
            return one()
    raise AssertionError(f"no settings of {family}")


@pytest.mark.parametrize("messages", [THREE_TURNS, REASONED], ids=["plain", "reasoned"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_learnt_is_what_the_oracle_says_is_sampled(family, messages):
    renderer, tokenizer = oracle_and_tokenizer(family)
    ends = end_texts(FAMILIES[family], tokenizer)
    stop = {tokenizer.convert_tokens_to_ids(end) for end in ends}
    for count in range(2, len(messages) + 1, 2):
        part = messages[:count]
        examples, reasons = learn(tokenizer, part, ends, "last_turn")
        rendered = renderer.render(part)
        if not examples:
            check_unlike_service(renderer, part, rendered, reasons)
            continue
        (example,) = examples
        begin = example["loss_mask"].index(1)
        learnt = range(begin, begin + sum(example["loss_mask"]))
        offset = len(rendered.token_ids) - len(example["input_ids"])
        if family not in OTHER_PROMPT:
            # GLM's end token stands behind the text.
            assert offset in (0, -1)
            offset = 0
        for own in range(begin + offset, len(rendered.token_ids)):
            position = own - offset
            token = rendered.token_ids[own]
            assert example["input_ids"][position] == token
            if rendered.message_indices[own] == count - 1 and rendered.sampled_mask[own]:
                assert position in learnt
            elif position in learnt:
                # The oracle leaves whitespace out that stands between prompt and answer.
                assert tokenizer.decode([token]).isspace()
        assert example["input_ids"][learnt[-1]] in stop


def check_unlike_service(renderer, messages, rendered, reasons):
    """What is left out is what the oracle's own prompt does not lead to, or does not show."""
    prompt = renderer.render(messages[:-1], add_generation_prompt=True).token_ids
    leads_there = rendered.token_ids[: len(prompt)] == prompt
    drops_reasoning = "drops or changes the reasoning" in reasons[0]
    assert drops_reasoning or not leads_there or "does not follow" in reasons[0]
