"""The output is the target's own, whatever the head proposes (tiny models in float64: no exception)."""

import pytest
import torch
from tiny import left_padded, quickly_trained, tiny_head, tiny_target

from eagle_hf import TreeConfig
from eagle_hf.decoding import verifier
from eagle_hf.decoding.verify import Verdict

SETTINGS = {
    "greedy": dict(do_sample=False),
    "sampled": dict(do_sample=True, temperature=1.0, top_k=0),
    "processed": dict(do_sample=True, temperature=0.7, top_k=12, top_p=0.9, repetition_penalty=1.2),
    "constrained": dict(do_sample=False, no_repeat_ngram_size=3, min_new_tokens=40),
}


def both(target, head, inputs, seed=0, **kwargs):
    """(plain, speculative) output under one seed."""
    outputs = []
    for assistant in (None, head):
        torch.manual_seed(seed)
        outputs.append(target.generate(**inputs, assistant_model=assistant, **kwargs))
    return outputs


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ["head", "adversarial_head", "trained_head"])
def test_output_equals_the_target_alone(target, name, setting, request):
    head, emitted = request.getfixturevalue(name), 0
    for seed in range(3):
        plain, fast = both(
            target,
            head,
            left_padded(target, [7], seed),
            seed,
            max_new_tokens=150,
            eos_token_id=None,
            **SETTINGS[setting],
        )
        assert torch.equal(plain, fast)
        emitted += head.last_run.tokens
    assert emitted == 3 * 149


@pytest.mark.parametrize("name", ["head", "adversarial_head", "trained_head"])
def test_greedy_batch_of_different_lengths_equals_the_target_alone(target, name, request):
    head, inputs = request.getfixturevalue(name), left_padded(target, [9, 2, 14, 6])
    for setting in ("greedy", "constrained"):
        plain, fast = both(target, head, inputs, max_new_tokens=150, **SETTINGS[setting])
        assert torch.equal(plain, fast)


def test_among_equal_logits_the_first_token_is_chosen_as_generate_does(head):
    undecided = tiny_target()
    with torch.no_grad():
        undecided.get_output_embeddings().weight.zero_()
    plain, fast = both(
        undecided,
        head,
        left_padded(undecided, [7]),
        max_new_tokens=20,
        eos_token_id=None,
        do_sample=False,
    )
    assert torch.equal(plain, fast) and not plain[0, 7:].any()


def test_each_row_of_a_greedy_batch_equals_its_single_run(target, trained_head):
    batch = left_padded(target, [9, 2, 14, 6])
    together = target.generate(
        **batch, assistant_model=trained_head, max_new_tokens=60, eos_token_id=None
    )
    for row, mask in enumerate(batch["attention_mask"]):
        alone = target.generate(
            batch["input_ids"][row, mask.bool()][None],
            assistant_model=trained_head,
            max_new_tokens=60,
            eos_token_id=None,
        )
        assert alone[0, -60:].tolist() == together[row, -60:].tolist()


def test_the_trained_head_gets_drafts_of_every_depth_accepted(target, trained_head):
    target.generate(
        **left_padded(target, [7]),
        assistant_model=trained_head,
        max_new_tokens=300,
        eos_token_id=None,
    )
    assert trained_head.last_run.tau > 1.5 and min(trained_head.last_run.accepted) > 0


SHAPE = TreeConfig(
    "sequoia", parents=(0, 0, 0, 0, 1, 1, 2, 4, 7, 8), ranks=(0, 0, 1, 2, 0, 1, 0, 0, 0, 0)
)


@pytest.mark.parametrize(
    "tree",
    [
        SHAPE,
        TreeConfig("chain", depth=5),
        TreeConfig(depth=1, top_k=4, nodes=3),
        TreeConfig(depth=6, top_k=3, nodes=40),
    ],
)
def test_every_tree_shape_is_lossless(target, trained_head, tree, monkeypatch):
    monkeypatch.setattr(trained_head, "tree", tree)
    plain, fast = both(
        target, trained_head, left_padded(target, [5, 11]), max_new_tokens=80, eos_token_id=None
    )
    assert torch.equal(plain, fast)


def accept_first_child(children, choose, emit):
    """A wrong rule: keeps the first draft whatever the target says."""
    token = next(iter(children[0]), None)
    token = choose(0) if token is None else token
    return Verdict([0], [token], emit(token), 1, 1)


def test_a_wrong_acceptance_rule_is_noticed(target, head, monkeypatch):
    monkeypatch.setattr(verifier, "verify", accept_first_child)
    plain, fast = both(target, head, left_padded(target, [7]), max_new_tokens=50, eos_token_id=None)
    assert not torch.equal(plain, fast)


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "mistral", "gpt2", "eager"])
def test_other_families_and_attention_are_lossless(name):
    target = family(name)
    head = quickly_trained(target, tiny_head(target), steps=60)
    for inputs in (left_padded(target, [30]), left_padded(target, [26, 5, 11])):
        plain, fast = both(target, head, inputs, max_new_tokens=70, do_sample=False)
        assert torch.equal(plain, fast)
    assert head.last_run.accepted[1] > 0  # branches of several nodes were committed


def family(name):
    """A tiny random model of another family; windows shorter than the text."""
    from transformers import (
        AutoModelForCausalLM,
        Gemma3TextConfig,
        GPT2Config,
        MistralConfig,
        Qwen3Config,
    )

    if name == "eager":
        target = tiny_target()
        target.set_attn_implementation("eager")
        return target
    common = dict(vocab_size=31, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    sizes = dict(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=7,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
    kinds = ["sliding_attention", "full_attention"] * 3 + ["full_attention"]
    configs = {
        "qwen3": lambda: Qwen3Config(
            **common, **sizes, use_sliding_window=True, sliding_window=16, layer_types=kinds
        ),
        "gemma3": lambda: Gemma3TextConfig(**common, **sizes, sliding_window=16, layer_types=kinds),
        "mistral": lambda: MistralConfig(**common, **sizes, sliding_window=16),
        "gpt2": lambda: GPT2Config(**common, n_embd=32, n_layer=7, n_head=4, n_positions=128),
    }
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(configs[name]()).double().eval()
