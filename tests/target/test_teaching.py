"""A target that a head cannot learn from is refused before anything is learnt."""

import pytest
import torch
from tiny import tiny_target
from transformers import (
    Cohere2Config,
    Cohere2ForCausalLM,
    FalconH1Config,
    FalconH1ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3nForCausalLM,
    Gemma3nTextConfig,
    GraniteConfig,
    GraniteForCausalLM,
    HyperCLOVAXConfig,
    HyperCLOVAXForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    MllamaForCausalLM,
    ModernBertDecoderConfig,
    ModernBertDecoderForCausalLM,
    MptConfig,
    MptForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)
from transformers.models.mllama.configuration_mllama import MllamaTextConfig

from eagle_hf.target import check_teacher, choose_aux_layer_ids, target_logits, target_states

SMALL = dict(
    vocab_size=40,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=7,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)


def seeded(model_class, config):
    """A random model whose logits are of the size of one."""
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    return model


SCALING = {
    "multiplied": (Cohere2ForCausalLM, Cohere2Config(**SMALL, logit_scale=0.3)),
    "divided": (GraniteForCausalLM, GraniteConfig(**SMALL, logits_scaling=3.0)),
    "multiplied by a divisor": (
        HyperCLOVAXForCausalLM,
        HyperCLOVAXConfig(**SMALL, logits_scaling=3.0),
    ),
    "multiplied in a hybrid": (
        FalconH1ForCausalLM,
        FalconH1Config(
            **SMALL,
            lm_head_multiplier=0.3,
            mamba_d_ssm=64,
            mamba_n_heads=4,
            mamba_d_head=16,
            mamba_d_state=8,
            mamba_chunk_size=8,
        ),
    ),
    "capped": (Gemma2ForCausalLM, Gemma2Config(**SMALL, final_logit_softcapping=2.0)),
    "capped by another name": (
        RecurrentGemmaForCausalLM,
        RecurrentGemmaConfig(**SMALL, lru_width=32, logits_soft_cap=2.0),
    ),
    "scaled in the config alone": (
        MptForCausalLM,
        MptConfig(vocab_size=40, d_model=32, n_layers=7, n_heads=4, logit_scale=0.3),
    ),
}


@pytest.mark.parametrize("model_class, config", SCALING.values(), ids=SCALING)
def test_logits_of_final_states_are_the_models_own(model_class, config):
    model = seeded(model_class, config)
    ids = torch.arange(3, 13)[None]
    with torch.no_grad():
        _, states = target_states(model, ids, [2, 3, 4])
        theirs = model(ids).logits
        ours = target_logits(model, states)
    assert torch.allclose(ours, theirs, atol=1e-5)
    check_teacher(model, [2, 3, 4])


@pytest.mark.parametrize("cap", [None, 2.0])
def test_a_wrapper_that_ignores_its_text_models_cap_is_read_so(cap):
    text = dict(SMALL, final_logit_softcapping=cap)
    vision = dict(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    config = Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=39
    )
    check_teacher(seeded(Gemma3ForConditionalGeneration, config), [2, 3, 4])


def test_a_model_that_needs_more_than_tokens_is_refused():
    class Seeing(type(tiny_target())):
        def forward(self, input_ids, pixel_values, **kwargs):
            return super().forward(input_ids, **kwargs)

    problem = "Seeing cannot read a text given as token ids alone .*pixel_values"
    with pytest.raises(ValueError, match=problem):
        check_teacher(Seeing(tiny_target().config).eval(), [2, 3, 4])


def test_an_unknown_change_of_the_logits_is_refused():
    class Halved(type(tiny_target())):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = output.logits / 2
            return output

    with pytest.raises(ValueError, match="Halved gives other logits than its LM head"):
        check_teacher(seeded(Halved, tiny_target().config), [2, 3, 4])


def test_a_layer_between_states_and_lm_head_is_refused():
    config = ModernBertDecoderConfig(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=7,
        num_attention_heads=4, pad_token_id=0,
    )  # fmt: skip
    with pytest.raises(ValueError, match="ModernBertDecoderForCausalLM gives other logits"):
        check_teacher(seeded(ModernBertDecoderForCausalLM, config), [2, 3, 4])


def test_several_states_a_token_are_refused():
    config = Gemma3nTextConfig(
        **SMALL | {"intermediate_size": [48] * 7},
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=40,
        laurel_rank=4,
        num_kv_shared_layers=0,
        activation_sparsity_pattern=[0.0] * 7,
    )
    model = seeded(Gemma3nForCausalLM, config)
    problem = r"enter layers \[2, 3, 4\] of Gemma3nForCausalLM are \[4, 1, 8, 32\]"
    with pytest.raises(ValueError, match=problem):
        check_teacher(model, [2, 3, 4])
    with pytest.raises(ValueError, match=problem):
        choose_aux_layer_ids(model)


def test_embeddings_of_another_width_are_refused():
    config = OPTConfig(
        vocab_size=40, hidden_size=32, ffn_dim=48, num_hidden_layers=7, num_attention_heads=4,
        word_embed_proj_dim=16,
    )  # fmt: skip
    with pytest.raises(
        ValueError, match=r"are \[1, 8, 32\], .* as wide as its embedding: \[1, 8, 16\]"
    ):
        check_teacher(seeded(OPTForCausalLM, config), [2, 3, 4])


def test_a_model_that_names_another_decoder_is_read():
    config = Llama4TextConfig(
        **SMALL,
        intermediate_size_mlp=48,
        num_local_experts=2,
        attention_chunk_size=16,
    )
    model = seeded(Llama4ForCausalLM, config)
    check_teacher(model, [2, 3, 4])
    ids = torch.arange(3, 13)[None]
    with torch.no_grad():
        _, states = target_states(model, ids, [2, 3, 4])
        assert torch.equal(target_logits(model, states), model(ids).logits)


def test_layers_that_run_for_images_alone_are_not_chosen():
    config = MllamaTextConfig(
        **{name: value for name, value in SMALL.items() if name != "head_dim"},
        cross_attention_layers=[2, 3],
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )
    model = seeded(MllamaForCausalLM, config)
    assert choose_aux_layer_ids(model) == [1, 4, 5]
    check_teacher(model, [1, 4, 5])
    with pytest.raises(ValueError, match=r"layers \[2, 3, 4\] of MllamaForCausalLM are not run"):
        check_teacher(model, [2, 3, 4])
    ids = torch.arange(3, 13)[None]
    with pytest.raises(ValueError, match=r"did not run its layers \[2\]"):
        target_states(model, ids, [1, 2, 4])


def test_the_probe_leaves_random_numbers_and_the_target_alone():
    target = tiny_target(dtype=torch.float32)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    check_teacher(target, [2, 3, 4])
    assert torch.equal(torch.rand(2), expected)
    assert not any(layer._forward_pre_hooks for layer in target.model.layers)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_dtype_teaches(dtype):
    check_teacher(tiny_target(dtype=dtype), [2, 3, 4])


def test_nan_is_left_to_those_who_can_name_the_conversation():
    target = tiny_target(dtype=torch.float32)
    with torch.no_grad():
        target.model.layers[0].mlp.down_proj.weight.fill_(float("nan"))
    check_teacher(target, [2, 3, 4])
