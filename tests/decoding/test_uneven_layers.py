"""Layers of several widths, and layers that read the keys of others, draft losslessly."""

import pytest
import torch
from tiny import left_padded
from transformers import Gemma4ForCausalLM, Gemma4TextConfig

from eagle_hf import TreeConfig, new_head


@pytest.fixture(scope="module")
def target():
    """A Gemma 4 whose last two layers read keys and values of earlier ones."""
    torch.manual_seed(0)
    config = Gemma4TextConfig(
        vocab_size=31,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        global_head_dim=16,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=31,
        num_kv_shared_layers=2,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"] * 3,
        pad_token_id=0,
        eos_token_id=2,
        initializer_range=0.25,
    )
    return Gemma4ForCausalLM(config).double().eval()


@pytest.mark.parametrize("lengths", [[9], [11, 4]])
def test_a_new_head_drafts_losslessly(target, lengths):
    examples = [{"id": "x", "input_ids": list(range(3, 31)), "loss_mask": [0, 0] + [1] * 26}]
    head, _ = new_head(target, examples, 20)
    head = head.double().eval()
    head.tree = TreeConfig(depth=3, top_k=5, nodes=16)
    inputs = left_padded(target, lengths)
    alone = target.generate(**inputs, max_new_tokens=12, do_sample=False)
    drafted = target.generate(**inputs, max_new_tokens=12, do_sample=False, assistant_model=head)
    assert torch.equal(drafted, alone)
    assert head.last_run.rounds > 0
