"""Conversations with images become tokens, a mask, and what the processor prepares beside them."""

import pytest
import torch
from tiny import word_tokenizer
from tiny_vision import IMAGE_TOKEN, VOCABULARY, image_tokenizer, picture, vision_processor

from eagle_hf.data import first_turn_ids, tokenize_conversations
from eagle_hf.data.templates.template import render_text

PROCESSORS = {"llava": 16, "gemma3": 4, "qwen2_5_vl": 4}  # placeholders of an image
PARTS_ONLY = (
    "{% for m in messages %}w3 {% for p in m.content %}"
    "{% if p.type == 'text' %}{{ p.text }}{% endif %}"
    "{% endfor %} w2 {% endfor %}"
)


def render(processor, messages):
    """(ids, mask, inputs of the images) of a conversation."""
    (example,), _ = tokenize_conversations(
        [{"messages": messages}], processor, eos_token_ids={2}, max_length=None
    )
    return example["input_ids"], example["loss_mask"], example["image_inputs"]


def ask(text, seed=None):
    """A user turn, with an image before its text."""
    part = {"type": "image"}
    if seed is not None:
        part["image"] = picture(seed)
    return {"role": "user", "content": [part, {"type": "text", "text": text}]}


def answer(text):
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_mask_covers_the_responses_behind_images(name):
    whole = render(vision_processor(name), [ask("w5 w6", 0), answer("w7 w8")])
    ids, mask, inputs = whole
    assert ids.count(IMAGE_TOKEN) == PROCESSORS[name]
    assert [token for token, is_learnt in zip(ids, mask, strict=True) if is_learnt] == [7, 8, 2]
    assert inputs["pixel_values"].isfinite().all()


@pytest.mark.parametrize("name", PROCESSORS)
def test_tokens_are_those_of_the_processor_itself(name):
    processor = vision_processor(name)
    messages = [ask("w5", 0), answer("w7"), ask("w6", 1), answer("w8 w9")]
    ids, _, inputs = render(processor, messages)
    text = render_text(processor, messages)
    whole = processor(
        text=[text],
        images=[[picture(0), picture(1)]],
        add_special_tokens=False,
        return_tensors="pt",
    )
    assert ids == whole.pop("input_ids")[0].tolist()
    del whole["attention_mask"]
    assert set(whole) == set(inputs)
    for key, value in whole.items():
        assert torch.equal(inputs[key], value)


def test_images_of_the_row_fill_the_parts_in_their_order():
    processor = vision_processor("llava")
    apart = [ask("w5"), answer("w7"), ask("w6"), answer("w8")]
    inside = [ask("w5", 0), answer("w7"), ask("w6", 1), answer("w8")]
    rows = [{"messages": apart, "images": [picture(0), picture(1)]}, {"messages": inside}]
    (one, other), _ = tokenize_conversations(rows, processor, eos_token_ids={2}, max_length=None)
    assert one["input_ids"] == other["input_ids"]
    for key, value in other["image_inputs"].items():
        assert torch.equal(one["image_inputs"][key], value)


@pytest.mark.parametrize(
    "row, reason",
    [
        ({"messages": [ask("w5"), answer("w7")]}, "the row has no image for it"),
        (
            {"messages": [ask("w5", 0), answer("w7")], "images": [picture(1)]},
            "1 of the row's images have no part",
        ),
        (
            {"messages": [ask("w5"), answer("w7")], "images": ["/none/such.png"]},
            "cannot be opened",
        ),
        (
            {"messages": [ask("w5", 0), {"role": "assistant", "content": [{"type": "image"}]}]},
            "of the assistant holds an image",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "video"}]}, answer("w7")]},
            "has the part {'type': 'video'}",
        ),
    ],
)
def test_images_that_cannot_be_read_are_named(row, reason):
    with pytest.raises(ValueError, match=reason):
        tokenize_conversations([row], vision_processor("llava"), eos_token_ids={2}, max_length=None)


def test_a_tokenizer_alone_names_the_processor():
    tokenizer = image_tokenizer()
    tokenizer.chat_template = vision_processor("llava").chat_template
    row = {"messages": [ask("w5", 0), answer("w7")]}
    with pytest.raises(ValueError, match="load_processor"):
        tokenize_conversations([row], tokenizer, eos_token_ids={2}, max_length=None)


def test_text_is_shown_to_templates_that_read_parts_alone():
    tokenizer = word_tokenizer(VOCABULARY)
    tokenizer.chat_template = PARTS_ONLY
    assert "w5 w6" in render_text(tokenizer, [{"role": "user", "content": "w5 w6"}])


def test_evaluation_prompts_are_shown_to_templates_that_read_parts_alone():
    tokenizer = word_tokenizer(VOCABULARY)
    tokenizer.chat_template = PARTS_ONLY
    prompt = {"id": "0", "turns": ["w5 w6"], "category": "other", "source": "here"}
    assert first_turn_ids(tokenizer, prompt)["input_ids"].tolist() == [[3, 5, 6, 2]]


def test_text_parts_are_joined_for_templates_that_read_text_alone():
    tokenizer = word_tokenizer(VOCABULARY)
    parts = [{"type": "text", "text": "w5 "}, {"type": "text", "text": "w6"}]
    assert render_text(tokenizer, [{"role": "user", "content": parts}]) == "w3 w5 w6 w2 "
