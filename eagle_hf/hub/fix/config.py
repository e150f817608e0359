"""Correct a head's config.json: the sizes that its weights have, and its target's facts."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from torch import Tensor

from eagle_hf.head.configuration import Eagle3Config
from eagle_hf.head.dialects import HEADS_OWN
from eagle_hf.head.dialects import TOKENS as SPECIAL_TOKENS
from eagle_hf.head.layouts import LAYER_IDS_KEY
from eagle_hf.hub.check.findings import shown
from eagle_hf.hub.layer_ids import Ids
from eagle_hf.hub.saved_head import LM_HEAD, SavedHead
from eagle_hf.hub.saved_target import Target

Weights = Mapping[str, Tensor]
# Keys of config.json that engines look for.
LOOKED_FOR = (
    "architectures",
    "model_type",
    "num_hidden_layers",
    "draft_vocab_size",
    "num_aux_hidden_states",
    "norm_before_residual",
    "rope_parameters",
    "rope_theta",
    LAYER_IDS_KEY,
)
# Types of RoPE that say nothing else at a greater length.
LENGTH_FREE_ROPE = ("default", "llama3")


def fix_config(head: SavedHead, weights: Weights) -> dict[str, Any]:
    """config.json in its own dialect, with the sizes that the weights have."""
    config = deepcopy(head.raw)
    # The weights are not quantised, and no code is taken along.
    for key in ("quantization_config", "auto_map"):
        config.pop(key, None)
    for key, value in _sizes_of_weights(head, weights).items():
        belongs_to_layer = head.dialect == "speculators" and key not in HEADS_OWN
        table = config["transformer_layer_config"] if belongs_to_layer else config
        table[key] = value
    fc = weights.get("fc.weight")
    config["dtype"] = "float32" if fc is None else str(fc.dtype).removeprefix("torch.")
    return config


def _sizes_of_weights(head: SavedHead, weights: Weights) -> dict[str, Any]:
    """What the shapes prove; the number of attention heads is known only from the config."""
    sizes: dict[str, Any] = {}
    if head.dialect != "automodel":  # there the key counts the target's layers
        sizes["num_hidden_layers"] = 1
    norm = weights.get("norm.weight")  # [H]
    if norm is not None and norm.dim() == 1:
        sizes["hidden_size"] = len(norm)
    width = head.size("target_hidden_size") or sizes.get("hidden_size")
    fc = weights.get("fc.weight")  # [H, states * width]
    if fc is not None and fc.dim() == 2 and width and fc.shape[1] % width == 0:
        sizes["num_aux_hidden_states"] = fc.shape[1] // width
    gate = weights.get("midlayer.mlp.gate_proj.weight")  # [I, H]
    if gate is not None and gate.dim() == 2:
        sizes["intermediate_size"] = len(gate)
    if LM_HEAD in weights:
        sizes["draft_vocab_size"] = len(weights[LM_HEAD])
    return sizes | _sizes_of_attention(head, weights)


def _sizes_of_attention(head: SavedHead, weights: Weights) -> dict[str, int]:
    """The width of an attention head, and how many of them the keys have."""
    queries = weights.get("midlayer.self_attn.q_proj.weight")  # [heads * head_dim, 2 * H]
    keys = weights.get("midlayer.self_attn.k_proj.weight")  # [key_heads * head_dim, 2 * H]
    heads = head.size("num_attention_heads")
    if queries is None or keys is None or heads is None or len(queries) % heads:
        return {}
    head_dim = len(queries) // heads
    if not head_dim or len(keys) % head_dim:
        return {}
    return {"head_dim": head_dim, "num_key_value_heads": len(keys) // head_dim}


def adopt_target_facts(
    config: Eagle3Config, target: Target | None, trained: Ids | None, layers: int | None
) -> None:
    """Write into the config what a head takes from its target, as far as it is known.

    Args:
        config: Of the head that is about to be saved.
        target: The target; None leaves special tokens and length as they are.
        trained: HF indices of the layers that the head was trained on.
        layers: How many layers the target has.
    """
    own = dict(config.eagle_hf or {})
    if trained:
        own["aux_layer_ids"] = trained
    if layers:
        own["target_num_hidden_layers"] = layers
    config.eagle_hf = own
    if target is None:
        return
    for key in SPECIAL_TOKENS:
        if key in target.config:
            setattr(config, key, target.config[key])
    longest = target.config.get("max_position_embeddings")
    if type(longest) is int and config.rope_parameters.get("rope_type") in LENGTH_FREE_ROPE:
        config.max_position_embeddings = max(config.max_position_embeddings, longest)


def list_differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What became of every key that was there, and which keys that engines look for were added."""
    changed = []
    left_out = []
    for key, value in before.items():
        if key == "transformers_version":
            continue
        if key in after and value != after[key]:
            changed.append(f"{key}: {shown(value)} -> {shown(after[key])}")
        elif key not in after and value is not None:
            left_out.append(f"{key}: {shown(value)} left out")
    added = []
    for key in LOOKED_FOR:
        if key in after and key not in before:
            added.append(f"{key}: {shown(after[key])} added")
    return changed + left_out + added
