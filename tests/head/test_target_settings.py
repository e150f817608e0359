"""A head shares with its target what both must agree on; the rest is its own."""

import pytest
from transformers import (
    Gemma3nTextConfig,
    Gemma3TextConfig,
    Gemma4TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
    OPTConfig,
    PreTrainedConfig,
    XLNetConfig,
)

from eagle_hf import Eagle3Config
from eagle_hf.head import target_settings

SMALL = dict(vocab_size=40, hidden_size=32, num_hidden_layers=7)


def test_a_llama_gives_its_own_numbers():
    target = LlamaConfig(
        **SMALL,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        rms_norm_eps=1e-5,
        initializer_range=0.05,
        max_position_embeddings=512,
        eos_token_id=[2, 5],
        pad_token_id=0,
    )
    head = Eagle3Config.from_target(target)
    assert (head.num_attention_heads, head.num_key_value_heads, head.head_dim) == (4, 2, 16)
    assert (head.hidden_size, head.intermediate_size, head.vocab_size) == (32, 48, 40)
    assert (head.rms_norm_eps, head.initializer_range) == (1e-5, 0.05)
    assert (head.max_position_embeddings, head.eos_token_id) == (512, [2, 5])


def test_layers_of_several_head_widths_leave_the_head_one_of_its_own():
    target = Gemma4TextConfig(**SMALL, num_attention_heads=4, head_dim=8, global_head_dim=16)
    head = Eagle3Config.from_target(target)
    assert (head.num_attention_heads, head.num_key_value_heads, head.head_dim) == (1, 1, 32)


def test_a_list_of_mlp_widths_gives_the_widest():
    target = Gemma3nTextConfig(**SMALL, num_attention_heads=4, intermediate_size=[48] * 6 + [64])
    assert Eagle3Config.from_target(target).intermediate_size == 64


def test_the_width_of_one_expert_is_no_mlp():
    target = MixtralConfig(**SMALL, num_attention_heads=4, intermediate_size=8)
    assert Eagle3Config.from_target(target).intermediate_size == 4 * 32


def test_a_target_without_attention_leaves_the_head_one_of_its_own():
    head = Eagle3Config.from_target(MambaConfig(**SMALL))
    assert head.head_dim % 2 == 0
    assert head.num_attention_heads * head.head_dim == 32


@pytest.mark.parametrize("activation", ["gelu", "relu2", "gelu_pytorch_tanh"])
def test_the_activation_is_what_engines_serve(activation, monkeypatch):
    said = []
    monkeypatch.setattr(target_settings.logger, "warning_once", said.append)
    target = LlamaConfig(**SMALL, num_attention_heads=4, hidden_act=activation)
    assert Eagle3Config.from_target(target).hidden_act == "silu"
    assert len(said) == 1
    assert activation in said[0]
    assert Eagle3Config.from_target(target, hidden_act=activation).hidden_act == activation
    assert len(said) == 1  # who chose it need not be told


@pytest.mark.parametrize(
    "target, theta",
    [
        (GPTNeoXConfig(**SMALL, num_attention_heads=4, rotary_emb_base=500), 500),
        (Gemma3TextConfig(**SMALL, num_attention_heads=4), 1e6),  # 1e4 in its sliding layers
        (
            LlamaConfig(
                **SMALL,
                num_attention_heads=4,
                rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5},
            ),
            5e5,
        ),
        (GPT2Config(n_embd=32, n_layer=7, n_head=4), 1e4),  # no RoPE: Llama's
    ],
    ids=["another name", "by kind of layer", "scaled", "none"],
)
def test_rope_has_the_base_of_the_layers_that_look_farthest(target, theta):
    rope = Eagle3Config.from_target(target).rope_parameters
    assert (rope["rope_type"], rope["rope_theta"]) == ("default", theta)


@pytest.mark.parametrize("spread, expected", [(1e-10, 32**-0.5), (1.0, 32**-0.5), (0.02, 0.02)])
def test_fresh_weights_neither_silence_nor_blow_up_a_state(spread, expected):
    target = LlamaConfig(**SMALL, num_attention_heads=4, initializer_range=spread)
    assert Eagle3Config.from_target(target).initializer_range == pytest.approx(expected)


def test_a_target_without_a_limit_sets_none():
    target = XLNetConfig(vocab_size=40, d_model=32, n_layer=7, n_head=4, d_inner=48)
    assert target.max_position_embeddings == -1
    assert Eagle3Config.from_target(target).max_position_embeddings == 2048  # Llama's default


def test_names_of_foreign_configs_are_understood():
    class Foreign(PreTrainedConfig):
        model_type = "foreign"

    target = Foreign()
    sizes = dict(n_embd=32, n_layer=7, n_head=4, n_positions=99, vocab_size=40)
    for name, value in (sizes | {"rotary_emb_base": 500}).items():
        setattr(target, name, value)
    head = Eagle3Config.from_target(target)
    assert (head.hidden_size, head.num_attention_heads, head.head_dim) == (32, 4, 8)
    assert head.max_position_embeddings == 99
    assert head.rope_parameters["rope_theta"] == 500
    assert head.aux_layer_ids == [2, 3, 4]


def test_a_config_that_does_not_say_its_width_is_refused():
    class Foreign(PreTrainedConfig):
        model_type = "foreign"

    with pytest.raises(ValueError, match="Foreign says None for hidden_size or n_embd or d_model"):
        Eagle3Config.from_target(Foreign())


def test_embeddings_narrower_than_the_states_are_refused():
    target = OPTConfig(**SMALL, num_attention_heads=4, ffn_dim=48, word_embed_proj_dim=16)
    with pytest.raises(ValueError, match="word_embed_proj_dim=16 and hidden_size=32"):
        Eagle3Config.from_target(target)


@pytest.mark.parametrize("pad, expected", [([3, 4], 3), (-1, None), (0, 0)])
def test_special_tokens_that_are_no_single_id_are_made_one(pad, expected):
    target = LlamaConfig(**SMALL, num_attention_heads=4)
    target.__dict__["pad_token_id"] = pad  # as a config.json without validation holds it
    assert Eagle3Config.from_target(target).pad_token_id == expected
