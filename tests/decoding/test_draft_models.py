"""Which language models may draft, and what they may lack of the target's vocabulary."""

import copy

import pytest
import torch
from drafting import plain_and_drafted
from tiny import left_padded, tiny_target
from transformers import GPT2Config, GPT2LMHeadModel, PhiConfig, PhiForCausalLM

from eagle_hf import TreeConfig, WindowedDraft


def padded_differently(tokens):
    """(target, a draft model of the same weights, a prompt), which share the ids below 26.

    The draft model has `tokens` rows. It would draft the ids of its padding if it could, and the
    target may choose those of its own.
    """
    target = tiny_target()
    draft_model = copy.deepcopy(target)
    draft_model.resize_token_embeddings(tokens)
    with torch.no_grad():
        draft_model.lm_head.weight[26:] = 5.0
        target.lm_head.weight[26:] = 0.9 * target.lm_head.weight[:5]
    inputs = left_padded(target, [7])
    inputs["input_ids"] %= 26
    return target, draft_model, inputs


@pytest.mark.parametrize("tokens", [26, 29, 40])
def test_a_draft_model_may_pad_the_vocabulary_in_its_own_way(tokens):
    """Told which ids are common, it drafts what the target would choose."""
    target, draft_model, inputs = padded_differently(tokens)
    assistant = WindowedDraft(draft_model, window=None, gamma=3, vocab_size=26)
    settings = dict(max_new_tokens=120, eos_token_id=None, do_sample=False)
    plain, fast = plain_and_drafted(target, assistant, inputs, **settings)
    assert torch.equal(plain, fast)
    assert not (fast[:, 7:] >= 26).any()
    assert assistant.last_run.tau > 3.5


@pytest.mark.parametrize("tokens", [26, 29, 40])
def test_what_is_never_drafted_is_sampled_as_by_the_target_alone(tokens):
    target, draft_model, inputs = padded_differently(tokens)
    assistant = WindowedDraft(draft_model, window=None, gamma=3, vocab_size=26)
    settings = dict(max_new_tokens=120, eos_token_id=None, do_sample=True, top_k=0)
    plain, fast = plain_and_drafted(target, assistant, inputs, temperature=1.0, **settings)
    assert torch.equal(plain, fast)
    assert (fast[:, 7:] >= 26).any()
    assert assistant.last_run.tau > 1.1


@pytest.mark.parametrize("tokens", [26, 29, 40])
def test_what_is_never_drafted_is_emitted_by_rejection(tokens):
    """How often is another test's, in test_distribution.py."""
    target, draft_model, inputs = padded_differently(tokens)
    assistant = WindowedDraft(draft_model, window=None, vocab_size=26)
    assistant.tree = TreeConfig("chain", depth=3, acceptance="rejection")
    settings = dict(max_new_tokens=60, eos_token_id=None, do_sample=True, top_k=0)
    output = target.generate(**inputs, assistant_model=assistant, temperature=1.0, **settings)
    assert (output[:, 7:] >= 26).any()
    assert assistant.last_run.tau > 1.1


@pytest.mark.parametrize("tokens", [26, 29, 40])
def test_more_common_ids_than_either_has_are_refused(tokens):
    target, draft_model, inputs = padded_differently(tokens)
    assistant = WindowedDraft(draft_model, vocab_size=tokens + 9)
    message = (
        f"vocab_size is {tokens + 9}; the draft model has {tokens} tokens and the target 31: "
        f"give {min(tokens, 31)} at most"
    )
    with pytest.raises(ValueError, match=message):
        target.generate(**inputs, assistant_model=assistant, max_new_tokens=4)


def assert_refused(target, assistant, message):
    with pytest.raises(ValueError, match=message):
        target.generate(**left_padded(target, [7]), assistant_model=assistant, max_new_tokens=4)


def gpt2(**config):
    """A model with a table of learnt positions."""
    torch.manual_seed(0)
    sizes = dict(vocab_size=31, n_embd=32, n_layer=2, n_head=2)
    return GPT2LMHeadModel(GPT2Config(**sizes, **config)).double().eval()


def test_a_draft_model_of_another_vocabulary_is_refused(target):
    message = "29 tokens and the target 31.*vocab_size=len.tokenizer.*universal assisted generation"
    assert_refused(target, WindowedDraft(tiny_target(vocab_size=29)), message)


def test_rope_with_changing_frequencies_is_refused(target):
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    dynamic = tiny_target(rope_parameters=rope)
    assert_refused(target, WindowedDraft(dynamic), "'dynamic', whose frequencies change")


def test_learnt_positions_are_refused_with_a_window(target):
    assert_refused(target, WindowedDraft(gpt2()), "no single rotary embedding")


def test_learnt_positions_serve_without_a_window(target):
    assistant = WindowedDraft(gpt2(), window=None)
    settings = dict(max_new_tokens=120, do_sample=False, eos_token_id=None)
    plain, fast = plain_and_drafted(target, assistant, left_padded(target, [7]), **settings)
    assert torch.equal(plain, fast)


def test_fewer_learnt_positions_than_the_targets_are_refused(target):
    short = gpt2(n_positions=40)
    message = "knows 40 positions, fewer than the target"
    assert_refused(target, WindowedDraft(short, window=None), message)


def test_keys_rotated_in_part_are_refused(target):
    config = PhiConfig(
        vocab_size=31,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    model = PhiForCausalLM(config).double().eval()
    assert_refused(target, WindowedDraft(model), "rotates a part of its keys")


def test_a_name_in_place_of_a_model_is_refused():
    with pytest.raises(ValueError, match="give an opened causal LM"):
        WindowedDraft("someone/their-model")
