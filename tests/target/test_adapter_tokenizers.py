"""An adapter is opened whole: with its tokenizer, its template, and the embeddings it grew."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import left_padded, tiny_head, tiny_target, word_tokenizer
from transformers import LlamaForCausalLM

from eagle_hf import load_target
from eagle_hf.target import target_logits, target_states, unwrap

GROWN = 33  # tokens, two more than the target's
OWN_TEMPLATE = "{% for m in messages %}w7 {{ m.content }} {% endfor %}"
# How adapters come to hold embeddings.
GROWING = {
    "saved by PEFT itself": dict(target_modules=["q_proj"]),
    "modules_to_save": dict(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]),
    "LoRA of the embeddings": dict(target_modules=["q_proj", "embed_tokens", "lm_head"]),
    "trained tokens": dict(target_modules=["q_proj"], trainable_token_indices=[31, 32]),
}


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def folder(request, tmp_path):
    """A tiny target on disk with a tokenizer, its embeddings tied or not."""
    target = tiny_target(dtype=torch.float32, tie_word_embeddings=request.param)
    target.save_pretrained(tmp_path / "target")
    word_tokenizer().save_pretrained(tmp_path / "target")
    return tmp_path / "target"


def save_adapter(folder, size=None, **config):
    """(folder, tuned model) of an adapter, trained after the target had grown to `size` tokens."""
    base = LlamaForCausalLM.from_pretrained(folder)
    if size is not None:
        base.resize_token_embeddings(size)
    torch.manual_seed(3)
    settings = {"target_modules": ["q_proj"]} | config
    tuned = get_peft_model(base, LoraConfig(init_lora_weights=False, **settings))
    tuned.save_pretrained(folder.parent / "adapter")
    return folder.parent / "adapter", tuned.eval()


@pytest.mark.parametrize("config", GROWING.values(), ids=GROWING.keys())
def test_an_adapter_that_grew_the_embeddings_computes_as_it_was_trained(config, folder, caplog):
    adapter, tuned = save_adapter(folder, GROWN, **config)
    target, _ = load_target(folder, adapter, dtype="stored")
    ids = torch.tensor([[5, 31, 7, 32, 9, 8]])
    assert unwrap(target).config.vocab_size == GROWN
    assert torch.allclose(target(ids).logits, tuned(ids).logits, atol=1e-5)
    _, states = target_states(target, ids, [2, 3, 4])
    assert torch.allclose(target_logits(target, states), tuned(ids).logits, atol=1e-5)
    assert "trained with 33 tokens and the model has 31" in caplog.text


def test_a_head_of_a_grown_target_drafts_losslessly(folder):
    adapter, _ = save_adapter(folder, GROWN)
    target, _ = load_target(folder, adapter, dtype="stored")
    head = tiny_head(unwrap(target))
    inputs = left_padded(target, [6])
    settings = dict(max_new_tokens=12, do_sample=False)
    plain = target.generate(**inputs, **settings)
    assert torch.equal(target.generate(**inputs, assistant_model=head, **settings), plain)


def test_an_adapter_without_embeddings_resizes_nothing(folder):
    adapter, _ = save_adapter(folder)
    word_tokenizer(GROWN).save_pretrained(adapter)  # with a padding token of its own, say
    target, _ = load_target(folder, adapter, dtype="stored")
    assert unwrap(target).config.vocab_size == 31


def test_the_tokenizer_that_an_adapter_brings_is_taken(folder, caplog):
    adapter, _ = save_adapter(folder, GROWN)
    own = word_tokenizer(GROWN)
    own.chat_template = OWN_TEMPLATE
    own.save_pretrained(adapter)
    _, tokenizer = load_target(folder, adapter)
    assert len(tokenizer) == GROWN
    assert tokenizer.chat_template == OWN_TEMPLATE
    assert "tokenizer and chat template are the adapter's" in caplog.text


def test_a_template_alone_is_laid_over_the_targets_tokenizer(folder, caplog):
    adapter, _ = save_adapter(folder)
    (adapter / "chat_template.jinja").write_text(OWN_TEMPLATE)
    _, tokenizer = load_target(folder, adapter)
    assert len(tokenizer) == 31
    assert tokenizer.chat_template == OWN_TEMPLATE
    assert "the chat template is the adapter's" in caplog.text


def test_an_adapter_that_brings_none_leaves_the_targets(folder, caplog):
    adapter, _ = save_adapter(folder)
    _, tokenizer = load_target(folder, adapter)
    assert tokenizer.chat_template == word_tokenizer().chat_template
    assert "adapter's" not in caplog.text


def test_the_tokenizer_that_is_asked_for_wins(folder):
    adapter, _ = save_adapter(folder)
    word_tokenizer(29).save_pretrained(adapter)
    _, tokenizer = load_target(folder, adapter, tokenizer=folder)
    assert len(tokenizer) == 31
    _, tokenizer = load_target(folder, tokenizer=adapter)
    assert len(tokenizer) == 29


def test_tokens_that_the_target_does_not_know_are_named(folder, tmp_path, caplog):
    word_tokenizer(40).save_pretrained(tmp_path / "larger")
    load_target(folder, tokenizer=tmp_path / "larger")
    assert "the tokenizer has 40 tokens and the target 31" in caplog.text


def test_what_is_no_tokenizer_or_no_adapter_is_refused(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no tokenizer"):
        load_target(folder, tokenizer=tmp_path / "empty")
    with pytest.raises(ValueError, match="empty cannot be laid over"):
        load_target(folder, tmp_path / "empty")
    with pytest.raises(ValueError, match="the adapter .*nowhere cannot be found"):
        load_target(folder, tmp_path / "nowhere")
