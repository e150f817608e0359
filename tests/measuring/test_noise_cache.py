"""Noise stands in for a text: every layer's keys and values have the shapes of real ones."""

import pytest
import torch
from tiny import tiny_head, tiny_target
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
)

from eagle_hf.measuring import noise_cache, target_forward
from eagle_hf.measuring.timing import read_cache

SMALL = dict(
    vocab_size=40,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=4,
    num_attention_heads=4,
    pad_token_id=0,
)
TARGETS = {
    "values narrower than keys": (
        DeepseekV3ForCausalLM,
        DeepseekV3Config(
            **SMALL,
            num_key_value_heads=4,
            q_lora_rank=16,
            kv_lora_rank=16,
            qk_nope_head_dim=8,
            qk_rope_head_dim=8,
            v_head_dim=8,
            first_k_dense_replace=4,
        ),
    ),
    "layers that differ, some without keys": (
        Gemma4ForCausalLM,
        Gemma4TextConfig(
            **SMALL,
            num_key_value_heads=2,
            head_dim=8,
            global_head_dim=16,
            hidden_size_per_layer_input=8,
            vocab_size_per_layer_input=40,
            num_kv_shared_layers=2,
            layer_types=["sliding_attention", "full_attention"] * 2,
        ),
    ),
}


def shapes(cache):
    """The shapes of every layer's keys and values."""
    return [(layer.keys.shape, layer.values.shape) for layer in cache.layers]


@pytest.mark.parametrize("model_class, config", TARGETS.values(), ids=TARGETS)
def test_noise_has_the_shapes_of_what_the_target_keeps(model_class, config):
    torch.manual_seed(0)
    target = model_class(config).eval()
    noise = noise_cache(target, 2, 6)
    assert shapes(noise) == shapes(read_cache(target, 2, 6))
    target_forward(target, noise, 2, 6, 3)()


def test_a_head_has_one_layer_of_noise():
    head = tiny_head(tiny_target())
    shape = torch.Size((3, head.config.num_key_value_heads, 5, head.config.head_dim))
    assert shapes(noise_cache(head, 3, 5)) == [(shape, shape)]
