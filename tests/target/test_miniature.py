"""A miniature has a target's switches and kinds of layers, and none of its size."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    Gemma3TextConfig,
    GPTNeoConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    Phi3Config,
    Qwen3Config,
)

from eagle_hf.target.miniature import HIDDEN_SIZE, SPECIAL_IDS, VOCABULARY, miniature, shrunken

LARGE = {
    "llama": LlamaConfig(),
    "mistral": MistralConfig(sliding_window=4096, num_hidden_layers=80),
    "gemma3": Gemma3TextConfig(),
    "qwen3": Qwen3Config(hidden_size=1024, num_attention_heads=16, head_dim=128),
    "gpt_neo": GPTNeoConfig(),
    "deepseek_v3": DeepseekV3Config(),
    "phi3": Phi3Config(
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "short_factor": [1.0] * 48,
            "long_factor": [2.0] * 48,
            "original_max_position_embeddings": 4096,
        },
    ),
}


def class_of(config):
    with torch.device("meta"):
        return type(AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize("name", LARGE)
def test_a_miniature_is_small_and_reads_text(name):
    config = LARGE[name]
    before = config.to_dict()
    model = miniature(class_of(config), config, torch.float32)
    assert sum(weight.numel() for weight in model.parameters()) < 1_000_000
    ids = torch.arange(SPECIAL_IDS, SPECIAL_IDS + 20)[None]
    assert model(input_ids=ids).logits.shape == (1, 20, VOCABULARY)
    assert config.to_dict() == before


def test_every_kind_of_layer_is_kept_once_at_least():
    kinds = ["sliding_attention"] * 9 + ["full_attention"]
    config = Gemma3TextConfig(num_hidden_layers=10, layer_types=kinds, sliding_window=4096)
    small = shrunken(config)
    assert small["layer_types"] == ["sliding_attention", "sliding_attention", "full_attention"]
    assert small["num_hidden_layers"] == 3
    assert small["sliding_window"] == 6


def test_layers_that_are_counted_from_the_first_are_counted_among_those_kept():
    small = shrunken(DeepseekV3Config(num_hidden_layers=61, first_k_dense_replace=3))
    assert small["num_hidden_layers"] == 3
    assert small["first_k_dense_replace"] == 2


def test_grouped_queries_stay_grouped_and_a_single_key_head_stays_alone():
    heads = {}
    for key_heads in (32, 8, 1):
        config = LlamaConfig(num_attention_heads=32, num_key_value_heads=key_heads)
        heads[key_heads] = shrunken(config)["num_key_value_heads"]
    assert heads == {32: 4, 8: 2, 1: 1}


def test_a_tiny_target_has_a_miniature_of_the_same_size_as_a_large_one():
    config = LlamaConfig(hidden_size=32, intermediate_size=64, num_attention_heads=2)
    assert shrunken(config)["hidden_size"] == HIDDEN_SIZE


def test_a_miniature_is_the_same_each_time_and_leaves_the_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = miniature(LlamaForCausalLM, LlamaConfig(), torch.float64)
    assert torch.equal(torch.rand(3), expected)
    second = miniature(LlamaForCausalLM, LlamaConfig(), torch.float64)
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)


def test_a_miniature_has_the_targets_attention_and_is_in_eval_mode():
    config = LlamaConfig(attn_implementation="eager")
    model = miniature(LlamaForCausalLM, config, torch.float64)
    assert model.config._attn_implementation == "eager"
    assert not model.training
