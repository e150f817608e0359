"""Tiny configurations of every model family, made by shrinking what a family calls by known names.

A family's own default configuration says which fields it has; `SIZES` says what a field of that
name becomes. What does not fit by name alone stands in families.py.
"""

import dataclasses
from typing import Any

from transformers import PreTrainedConfig

LAYERS = 4
VOCABULARY = 50
FIRST_SPECIAL = 40  # from here on, ids stand for images, sounds and the like

SIZES: dict[Any, tuple[str, ...]] = {
    VOCABULARY: ("vocab_size", "unpadded_vocab_size", "vocab_size_per_layer_input"),
    1: ("topk_group",),
    2: (
        "depth",
        "vision_layers",
        "n_group",
        "num_expert_group",
        "num_key_value_heads",
        "global_num_key_value_heads",
        "num_global_key_value_heads",
        "swa_num_key_value_heads",
        "num_experts_per_tok",
        "moe_topk",
        "moe_k",
        "top_k_experts",
        "index_n_heads",
        "linear_num_key_heads",
        "spatial_merge_size",
        "num_layers",
        "resampler_depth",
    ),
    4: (
        "num_hidden_layers",
        "n_layer",
        "layers",
        "n_layers",
        "decoder_layers",
        "num_decoder_layers",
        "encoder_layers",
        "num_encoder_layers",
        "num_attention_heads",
        "swa_num_attention_heads",
        "n_head",
        "n_heads",
        "num_heads",
        "attention_heads",
        "encoder_attention_heads",
        "decoder_attention_heads",
        "num_encoder_attention_heads",
        "num_decoder_attention_heads",
        "num_experts",
        "num_local_experts",
        "n_routed_experts",
        "moe_num_experts",
        "linear_num_value_heads",
        "linear_num_heads",
        "patch_size",
    ),
    8: (
        "head_dim",
        "global_head_dim",
        "swa_head_dim",
        "attention_head_dim",
        "d_kv",
        "d_head",
        "v_head_dim",
        "qk_rope_head_dim",
        "qk_nope_head_dim",
        "index_head_dim",
        "linear_key_head_dim",
        "linear_value_head_dim",
        "linear_head_dim",
        "sliding_window",
        "sliding_window_size",
        "attention_window_size",
        "local_attention",
        "attention_chunk_size",
        "hidden_size_per_layer_input",
        "kv_channels",
        "mamba_d_state",
        "state_size",
        "ssm_state_size",
        "mamba_d_head",
        "mamba_head_dim",
        "index_topk",
        "image_size",
    ),
    16: ("kv_lora_rank", "q_lora_rank", "num_mel_bins", "chunk_size", "mamba_chunk_size"),
    32: (
        "hidden_size",
        "n_embd",
        "d_model",
        "dim",
        "emb_dim",
        "embed_dim",
        "embedding_size",
        "word_embed_proj_dim",
        "out_hidden_size",
        "text_hidden_size",
        "projection_dim",
        "projector_hidden_size",
        "encoder_hidden_size",
        "backbone_hidden_size",
    ),
    48: (
        "intermediate_size",
        "intermediate_size_mlp",
        "feed_forward_size",
        "dff",
        "dim_ff",
        "moe_intermediate_size",
        "shared_expert_intermediate_size",
        "shared_intermediate_size",
        "dense_intermediate_size",
        "ffn_dim",
        "ffn_hidden_size",
        "expert_ffn_hidden_size",
        "encoder_ffn_dim",
        "decoder_ffn_dim",
        "d_ff",
        "n_inner",
        "mlp_dim",
    ),
    256: ("max_position_embeddings", "n_positions", "max_seq_len"),
}
MAY_BE_ABSENT = {  # a family without one is another model than with one
    "attention_chunk_size",
    "embedding_size",
    "encoder_hidden_size",
    "global_head_dim",
    "n_inner",
    "q_lora_rank",
    "sliding_window",
    "word_embed_proj_dim",
    "num_layers",
    "decoder_layers",
    "num_global_key_value_heads",
    "d_head",
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
SPECIAL_ENDINGS = ("_token_id", "_token_index", "_token_ids")

VALUES = {name: value for value, names in SIZES.items() for name in names}


def tiny_config(config_class: type[PreTrainedConfig], given: dict[str, Any]) -> PreTrainedConfig:
    """A configuration of a family with every field shrunk that has a known name.

    Args:
        config_class: The family's configuration.
        given: Fields with values of their own; a dictionary for a part (`text_config`) holds fields
            of that part.
    """
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    values = {}
    special = FIRST_SPECIAL
    for name, field in fields.items():
        if name in VALUES and may_shrink(name, field.default):
            values[name] = VALUES[name]
        elif name in TOKENS:
            values[name] = TOKENS[name]
        elif name.endswith(SPECIAL_ENDINGS) and isinstance(field.default, int):
            values[name] = special
            special = min(special + 1, VOCABULARY - 1)
        elif name == "is_decoder":
            values[name] = True
    if "kv_lora_rank" in values and "num_key_value_heads" in values:
        values["num_key_value_heads"] = values["num_attention_heads"]  # latent keys are shared
    for name, part in parts_of(config_class).items():
        part_fields = given.get(name, {})
        values[name] = tiny_config(part, part_fields)
    for name, value in given.items():
        if name not in values or not isinstance(value, dict):
            values[name] = value
    config = config_class(**cover_kinds(config_class, values))
    fit_axes(config)
    return config


def may_shrink(name: str, default: Any) -> bool:
    """Whether a field of this name is a size: lists are none, and 0 turns a thing off."""
    if default is None:
        return name not in MAY_BE_ABSENT
    return isinstance(default, int) and default != 0


def cover_kinds(config_class: type[PreTrainedConfig], values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a configuration, with a list of layers in which every kind of layer is."""
    if "layer_types" not in field_names(config_class) or "layer_types" in values:
        return values
    kinds = sorted(set(config_class().layer_types or ()))
    if set(config_class(**values).layer_types or ()) == set(kinds):
        return values
    return values | {"layer_types": (kinds * LAYERS)[:LAYERS]}


def field_names(config_class: type[PreTrainedConfig]) -> set[str]:
    """What a configuration can be given."""
    return {field.name for field in dataclasses.fields(config_class)}


def fit_axes(config: PreTrainedConfig) -> None:
    """Share the pairs of a shrunk head among the axes of a RoPE that has several."""
    rope = getattr(config, "rope_parameters", None) or {}
    if "mrope_section" not in rope:
        return
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    pairs = int(width * rope.get("partial_rotary_factor", 1.0)) // 2
    if sum(rope["mrope_section"]) != pairs:
        rest = pairs // 3
        rope["mrope_section"] = [pairs - 2 * rest, rest, rest]


def parts_of(config_class: type[PreTrainedConfig]) -> dict[str, type[PreTrainedConfig]]:
    """The configurations inside one, by their names, as the family's own default has them."""
    names = config_class.sub_configs
    if not names:
        return {}
    default = config_class()
    parts = {}
    for name in names:
        part = getattr(default, name, None)
        if isinstance(part, PreTrainedConfig):
            parts[name] = type(part)
    return parts
