"""What single families need beyond the shrinking by name, and what is not built at all."""

from dataclasses import dataclass, field
from typing import Any

import torch

from sweep.shrinking import LAYERS, VOCABULARY

IMAGE_TOKEN = 40


@dataclass(frozen=True)
class Family:
    """What a family's configuration needs beyond the shrinking by name.

    Attributes:
        config: Fields of its configuration; a dictionary holds fields of a part.
        dtype: float32 where the family's own code mixes it into a model in float64.
        images: The shape of the pixel values that its generate asks for, for one row.
        image_tokens: How many tokens of a prompt stand for its image.
        more_inputs: The shapes of other inputs, for one row; all of them are ones.
    """

    config: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float64
    images: tuple[int, ...] | None = None
    image_tokens: int = 0
    more_inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)


def axes(*sections: int, **rope: Any) -> dict[str, Any]:
    """RoPE of several axes, by how many pairs of a head turn with each."""
    return {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(sections)} | rope


def with_text(**config: Any) -> Family:
    """A family whose text model needs these fields."""
    return Family({"text_config": config})


SLIDING = ["sliding_attention", "full_attention"] * (LAYERS // 2)
MAMBA = ["linear_attention", "full_attention"] * (LAYERS // 2)
GRID = Family({"text_config": {"rope_parameters": axes(2, 1, 1)}})
QWEN4 = dict(
    indexer_n_heads=2,
    indexer_kv_heads=1,
    indexer_head_dim=8,
    indexer_budget=8,
    indexer_compress_ratio=4,
    ple_layer_ids=[1],
    ple_embed_dim=16,
    heads_per_ngram=2,
    ngram_vocab_size_base=64,
    make_ngram_vocab_size_divisible_by=8,
    split_ngram_parts=1,
    hc_lowrank=8,
)
MAMBA2 = dict(mamba_n_heads=8, mamba_d_head=8)
COMPASS = dict(
    layer_types=SLIDING,
    rope_parameters={
        "sliding_attention": axes(2, 1, 1),
        "full_attention": axes(2, 1, 1),
    },
)
DOTS3 = dict(
    swa_num_attention_heads=4,
    swa_num_key_value_heads=4,
    swa_q_lora_rank=16,
    swa_kv_lora_rank=16,
    swa_head_dim=16,
    swa_qk_nope_head_dim=8,
    swa_v_head_dim=8,
    sliding_window=8,
)
GEMMA_ASSISTANT = {
    "text_config": dict(
        hidden_size_per_layer_input=0, vocab_size_per_layer_input=0, num_kv_shared_layers=LAYERS
    )
}
FLOAT32 = Family(dtype=torch.float32)
PICTURE = (3, 8, 8)
IMAGES = Family(images=PICTURE)
QUERIES = {"image_token_index": IMAGE_TOKEN, "num_query_tokens": 2}
QFORMER = {"qformer_input_ids": (3,), "qformer_attention_mask": (3,)}

FAMILIES: dict[str, Family] = {
    "BambaConfig": Family(MAMBA2 | {"attn_layer_indices": [1, 3]}),
    "Apertus1p5Config": Family(
        {
            "image_token_offset": 10,
            "audio_token_offset": 20,
            "vision_config": dict(codebook_size=10, base_channels=32),
            "audio_config": dict(codebook_size=10, codebook_dim=32),
        }
    ),
    "BltConfig": Family({"encoder_hash_byte_group_vocab": 64, "vocab_size": 260}),
    "CodeGenConfig": Family({"rotary_dim": 4}),
    "CohereCompassTextConfig": Family(COMPASS),
    "CohereCompassConfig": with_text(**COMPASS),
    "DbrxConfig": Family({"attn_config": dict(rope_theta=1e4, kv_n_heads=2, clip_qkv=8.0)}),
    "Dots3NoteTextConfig": Family(DOTS3),
    "Dots3NoteConfig": Family(
        {
            "text_config": DOTS3,
            "vision_config": dict(
                pyramid_num_routed=[-1, -1, -1, 4], adapter_in_dim=32, adapter_out_dim=32
            ),
            "audio_config": dict(adapter_input_size=32, adapter_out_dim=32),
        }
    ),
    "DoryConfig": Family({"n_input_layers": 1, "n_output_layers": 1}),
    "Dots1Config": Family({"n_shared_experts": 1}),
    "Gemma3nTextConfig": Family({"num_kv_shared_layers": 0}),
    "Gemma4AssistantConfig": Family(GEMMA_ASSISTANT),
    "Gemma4UnifiedAssistantConfig": Family(GEMMA_ASSISTANT),
    "GPTNeoConfig": Family(
        {"num_layers": 4, "attention_types": [[["global", "local"], 2]], "window_size": 4}
    ),
    "GPTJConfig": Family({"rotary_dim": 4}),
    "GraniteMoeHybridConfig": Family(MAMBA2 | {"layer_types": MAMBA}),
    "Inkling2LoopTextConfig": FLOAT32,
    "Inkling2TextConfig": FLOAT32,
    "Inkling2Config": FLOAT32,
    "Inkling2LoopConfig": FLOAT32,
    "Lfm2MoeConfig": Family({"layer_types": ["conv", "full_attention"] * (LAYERS // 2)}),
    "Mamba2Config": Family({"num_heads": 8, "head_dim": 8, "n_groups": 2}),
    "Phi4MultimodalConfig": Family(
        {
            "audio_config": dict(
                ext_pw_out_channel=32, depthwise_separable_out_channel=32, nemo_conv_channels=32
            )
        }
    ),
    "Qwen4ExpConfig": with_text(**QWEN4),
    "Qwen4ExpTextConfig": Family(QWEN4),
    "ReformerConfig": Family(
        {
            "is_decoder": True,
            "axial_pos_shape": (16, 16),
            "axial_pos_embds_dim": (16, 16),
            "attention_head_size": 8,
            "num_buckets": 4,
        }
    ),
    "RoCBertConfig": Family(
        {
            "pronunciation_vocab_size": VOCABULARY,
            "pronunciation_embed_dim": 8,
            "shape_vocab_size": VOCABULARY,
            "shape_embed_dim": 8,
        }
    ),
    "XGLMConfig": FLOAT32,
    "XLNetConfig": FLOAT32,
    "xLSTMConfig": Family({"chunk_size": 16, "hidden_size": 64, "num_heads": 4}),
    "XmodConfig": Family({"default_language": "en_XX"}),
    "ZambaConfig": Family({"attn_layer_period": 3, "attn_layer_offset": 0}),
    "Zamba2Config": Family(
        {"layers_block_type": ["linear_attention", "hybrid"] * (LAYERS // 2), "n_mamba_heads": 8}
    ),
    "ZayaConfig": Family({"num_experts_per_tok": 1}),
    "BlipConfig": IMAGES,
    "Blip2Config": Family(QUERIES, images=PICTURE, image_tokens=2),
    "ChameleonConfig": Family(
        {
            "vocabulary_map": {"<image>": 40},
            "vq_config": dict(base_channels=32, channel_multiplier=[1], latent_channels=32),
        }
    ),
    "Cosmos3EdgeConfig": GRID,
    "DeepseekOcr2Config": with_text(mlp_layer_types=["dense"] + ["sparse"] * (LAYERS - 1)),
    "Emu3Config": Family(
        {
            "vocabulary_map": {"<|extra_200|>": 40, "<image>": 41},
            "vq_config": dict(base_channels=32, channel_multiplier=[1], latent_channels=32),
        }
    ),
    "Ernie4_5_VLMoeConfig": with_text(
        moe_intermediate_size=[48, 24], rope_parameters=axes(1, 1, 2)
    ),
    "Florence2Config": Family({"vision_config": dict(embed_dim=[8, 16, 32, 64])}, images=PICTURE),
    "Glm46VConfig": GRID,
    "Glm4vConfig": GRID,
    "Glm4vMoeConfig": with_text(rope_parameters=axes(2, 1, 1, partial_rotary_factor=1.0)),
    "Glm5NextConfig": with_text(index_kpool=4),
    "GlmOcrConfig": GRID,
    "GlmgaConfig": GRID,
    "Granite4VisionConfig": Family(
        {
            "deepstack_layer_map": [[0, 1]],
            "downsample_rate": "1/2",
            "vision_config": dict(hidden_size=64),
        }
    ),
    "HunYuanVLConfig": GRID,
    "HYV4VLConfig": GRID,
    "IdeficsConfig": Family(images=(1, *PICTURE), more_inputs={"image_attention_mask": (11, 1)}),
    "InstructBlipConfig": Family(QUERIES, images=PICTURE, image_tokens=2, more_inputs=QFORMER),
    "InstructBlipVideoConfig": Family(
        {"video_token_index": IMAGE_TOKEN, "num_query_tokens": 2},
        images=(1, *PICTURE),
        image_tokens=2,
        more_inputs=QFORMER,
    ),
    "JambaConfig": Family({"attn_layer_period": 2, "attn_layer_offset": 1}),
    "JanusConfig": Family({"vq_config": dict(base_channels=32)}),
    "Kosmos2Config": FLOAT32,
    "Llama4Config": Family(
        {
            "vision_config": dict(
                vision_output_dim=32, projector_input_dim=32, projector_output_dim=32
            )
        }
    ),
    "Molmo2Config": Family(
        {
            "adapter_config": dict(vision_feature_layer=[1, 2]),
            "vision_config": dict(image_size=[8, 8]),
        }
    ),
    "MuseSparkConfig": Family({"audio_config": dict(hidden_sizes=[8, 8, 8, 8])}),
    "NemotronH_Omni_Reasoning_V3_Config": Family(
        {"vision_config": dict(video_temporal_patch_size=2)}
    ),
    "PaddleOCRVLConfig": GRID,
    "Qwen2_5OmniThinkerConfig": Family({"vision_start_token_id": 47} | GRID.config),
    "Qwen3OmniMoeThinkerConfig": Family({"vision_start_token_id": 47}),
    "Qwen2_5_VLConfig": GRID,
    "Qwen2VLConfig": GRID,
    "Pix2StructConfig": IMAGES,
    "UdopConfig": Family({"decoder_start_token_id": 1}, images=PICTURE),
    "VisionEncoderDecoderConfig": IMAGES,
    "Step3p7Config": with_text(layer_types=SLIDING, sliding_window=8),
}

TIMM = "its vision tower needs timm"
CODES = "reads several codes of sound at once, no tokens of text"
BACKBONE = "drafts for a Gemma 4 of transformers' own assisted generation, on that model's cache"
UNBUILT: dict[str, str] = {
    "BltForCausalLM": "its own generate fails: BltConfig has no num_hidden_layers",
    "DiffusionGemmaForBlockDiffusion": "its generate writes blocks by diffusion",
    "EvollaForProteinText2Text": "no Auto class opens it",
    "FastVlmForConditionalGeneration": TIMM,
    "Gemma3nForConditionalGeneration": TIMM,
    "Gemma4AssistantForCausalLM": BACKBONE,
    "Gemma4UnifiedAssistantForCausalLM": BACKBONE,
    "Llama4ForConditionalGeneration": "its own forward fails: the output has no image_outputs",
    "MusicgenForCausalLM": CODES,
    "MusicgenMelodyForCausalLM": CODES,
    "PerceptionLMForConditionalGeneration": TIMM,
    "PI0ForConditionalGeneration": "has no generate",
    "Pix2StructForConditionalGeneration": "its own generate takes patches in place of pixels",
}
