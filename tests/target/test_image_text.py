"""Image-text targets: opened from a folder, their states read with the images mixed in."""

import pytest
import torch
from tiny_vision import KINDS, image_prompts, vision_processor, vision_target

from eagle_hf import load_target
from eagle_hf.target import load_processor, target_logits, target_states


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_opens_from_its_folder(kind, tmp_path):
    model = vision_target(kind, torch.float32)
    model.save_pretrained(tmp_path)
    vision_processor("llava").tokenizer.save_pretrained(tmp_path)
    target, tokenizer = load_target(tmp_path, dtype="stored")
    assert type(target) is type(model)
    assert len(tokenizer) == 31
    inputs = image_prompts(kind, [[4, 5]], torch.float32)
    assert torch.equal(target(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_states_of_an_image_prompt_are_those_of_the_model(kind):
    target = vision_target(kind)
    inputs = image_prompts(kind, [[3, 2, 4]])
    logits = target(**inputs).logits
    ids = inputs.pop("input_ids")
    del inputs["attention_mask"]
    aux, final = target_states(target, ids, [2, 3, 4], [inputs])
    assert torch.allclose(target_logits(target, final), logits)
    blind, _ = target_states(target, ids, [2, 3, 4])
    assert not torch.allclose(aux, blind)


def test_a_processor_opens_beside_the_target(tmp_path):
    vision_target("llava").save_pretrained(tmp_path)
    vision_processor("llava").save_pretrained(tmp_path)
    processor = load_processor(tmp_path)
    assert type(processor).__name__ == "LlavaProcessor"
    _, tokenizer = load_target(tmp_path)
    assert tokenizer.get_vocab() == processor.tokenizer.get_vocab()


def test_a_folder_without_its_processor_is_named(tmp_path):
    vision_target("qwen2_5_vl").save_pretrained(tmp_path)
    vision_processor("qwen2_5_vl").tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="processor"):
        load_processor(tmp_path)
