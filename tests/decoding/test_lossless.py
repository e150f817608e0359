"""The output is the target's own, whatever the head proposes: in float64, without exception."""

import pytest
import torch
from drafting import given_tree, plain_and_drafted
from tiny import left_padded, quickly_trained, tiny_head, tiny_target
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    MistralConfig,
    Qwen3Config,
)

from eagle_hf import TreeConfig
from eagle_hf.decoding import verifier
from eagle_hf.decoding.verify import Verdict

SETTINGS = {
    "greedy": dict(do_sample=False),
    "sampled": dict(do_sample=True, temperature=1.0, top_k=0),
    "processed": dict(do_sample=True, temperature=0.7, top_k=12, top_p=0.9, repetition_penalty=1.2),
    "constrained": dict(do_sample=False, no_repeat_ngram_size=3, min_new_tokens=40),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ["head", "adversarial_head", "trained_head"])
def test_output_equals_the_target_alone(target, name, setting, request):
    head = request.getfixturevalue(name)
    emitted = 0
    for seed in range(3):
        inputs = left_padded(target, [7], seed)
        settings = dict(SETTINGS[setting], max_new_tokens=150, eos_token_id=None)
        plain, fast = plain_and_drafted(target, head, inputs, seed, **settings)
        assert torch.equal(plain, fast)
        emitted += head.last_run.tokens
    assert emitted == 3 * 149


@pytest.mark.parametrize("name", ["head", "adversarial_head", "trained_head"])
def test_greedy_batch_of_different_lengths_equals_the_target_alone(target, name, request):
    head = request.getfixturevalue(name)
    inputs = left_padded(target, [9, 2, 14, 6])
    for setting in ("greedy", "constrained"):
        settings = dict(SETTINGS[setting], max_new_tokens=150)
        plain, fast = plain_and_drafted(target, head, inputs, **settings)
        assert torch.equal(plain, fast)


def test_among_equal_logits_the_first_token_is_chosen_as_generate_does(head):
    undecided = tiny_target()
    with torch.no_grad():
        undecided.get_output_embeddings().weight.zero_()
    settings = dict(max_new_tokens=20, eos_token_id=None, do_sample=False)
    plain, fast = plain_and_drafted(undecided, head, left_padded(undecided, [7]), **settings)
    assert torch.equal(plain, fast)
    assert not plain[0, 7:].any()


def test_each_row_of_a_greedy_batch_equals_its_single_run(target, trained_head):
    batch = left_padded(target, [9, 2, 14, 6])
    settings = dict(assistant_model=trained_head, max_new_tokens=60, eos_token_id=None)
    together = target.generate(**batch, **settings)
    for row, mask in enumerate(batch["attention_mask"]):
        prompt = batch["input_ids"][row, mask.bool()]
        alone = target.generate(prompt[None], **settings)
        assert alone[0, -60:].tolist() == together[row, -60:].tolist()


def test_the_trained_head_gets_drafts_of_every_depth_accepted(target, trained_head):
    target.generate(
        **left_padded(target, [7]),
        assistant_model=trained_head,
        max_new_tokens=300,
        eos_token_id=None,
    )
    assert trained_head.last_run.tau > 1.5
    assert min(trained_head.last_run.accepted) > 0


TREES = [
    TreeConfig(
        "sequoia", parents=(0, 0, 0, 0, 1, 1, 2, 4, 7, 8), ranks=(0, 0, 1, 2, 0, 1, 0, 0, 0, 0)
    ),
    TreeConfig("chain", depth=5),
    TreeConfig(depth=1, top_k=4, nodes=3),
    TreeConfig(depth=6, top_k=3, nodes=40),
]


@pytest.mark.parametrize("tree", TREES)
def test_every_tree_shape_is_lossless(target, trained_head, tree):
    inputs = left_padded(target, [5, 11])
    settings = dict(max_new_tokens=80, eos_token_id=None)
    with given_tree(trained_head, tree):
        plain, fast = plain_and_drafted(target, trained_head, inputs, **settings)
    assert torch.equal(plain, fast)


def accept_first_child(children, choose, emit):
    """A wrong rule: it accepts the first draft, whatever the target chooses."""
    token = next(iter(children[0]), None)
    if token is None:
        token = choose(0)
    return Verdict([0], [token], emit(token), 1, 1)


def test_a_wrong_acceptance_rule_is_noticed(target, head, monkeypatch):
    monkeypatch.setattr(verifier, "verify", accept_first_child)
    inputs = left_padded(target, [7])
    plain, fast = plain_and_drafted(target, head, inputs, max_new_tokens=50, eos_token_id=None)
    assert not torch.equal(plain, fast)


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "mistral", "gpt2", "eager"])
def test_other_families_and_attention_are_lossless(name):
    target = model_of_family(name)
    head = quickly_trained(target, tiny_head(target), steps=60)
    for inputs in (left_padded(target, [30]), left_padded(target, [26, 5, 11])):
        plain, fast = plain_and_drafted(target, head, inputs, max_new_tokens=70, do_sample=False)
        assert torch.equal(plain, fast)
    assert head.last_run.accepted[1] > 0  # branches of several nodes were committed


def model_of_family(name):
    """A tiny random model of another family; windows are shorter than the text."""
    if name == "eager":
        target = tiny_target()
        target.set_attn_implementation("eager")
        return target
    config = config_of_family(name)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).double().eval()


def config_of_family(name):
    tokens = dict(vocab_size=31, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    sizes = dict(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=7,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
    kinds = ["sliding_attention", "full_attention"] * 3 + ["full_attention"]
    if name == "qwen3":
        return Qwen3Config(
            **tokens, **sizes, use_sliding_window=True, sliding_window=16, layer_types=kinds
        )
    if name == "gemma3":
        return Gemma3TextConfig(**tokens, **sizes, sliding_window=16, layer_types=kinds)
    if name == "mistral":
        return MistralConfig(**tokens, **sizes, sliding_window=16)
    return GPT2Config(**tokens, n_embd=32, n_layer=7, n_head=4, n_positions=128)
