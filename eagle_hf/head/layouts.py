"""The one on-disk layout of a head's config: dictionaries in, dictionaries out, no tensors.

A saved head is what vLLM, SGLang and llama.cpp load: their architecture name, `model_type` llama,
and RoPE in the new and the legacy schema.

Layer ids are left out for the default layers, because every engine then reads (2, n//2, n-3).
Other layers are written twice, because engines disagree on what an id means. The top level holds
HF indices, for vLLM and llama.cpp. `eagle_config` holds each one lower, for SGLang.
"""

from typing import Any

ARCHITECTURE = "LlamaForCausalLMEagle3"
LAYER_IDS_KEY = "eagle_aux_hidden_state_layer_ids"


def engine_config(config: dict[str, Any]) -> dict[str, Any]:
    """Lay out the attributes of an `Eagle3Config` as they are written to config.json.

    Args:
        config: The attributes. They are not changed.

    Returns:
        A new dictionary.
    """
    written = {key: value for key, value in config.items() if not key.startswith("_")}
    written["architectures"] = [ARCHITECTURE]
    written["tie_word_embeddings"] = False

    # RoPE in the legacy schema, beside the new one
    rope = dict(written.get("rope_parameters") or {})
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    is_scaled = scaling.get("rope_type", "default") != "default"
    written["rope_theta"] = rope.get("rope_theta")
    written["rope_scaling"] = scaling if is_scaled else None

    # `eagle_hf` is written even when empty: this key tells the layout from the other dialects
    extras = written.get("eagle_hf") or {}
    written["eagle_hf"] = extras
    eagle_config: dict[str, Any] = {"use_aux_hidden_state": True}
    written["eagle_config"] = eagle_config
    written.pop(LAYER_IDS_KEY, None)
    if not _has_default_layers(extras):
        ids = list(extras["aux_layer_ids"])
        written[LAYER_IDS_KEY] = ids
        if min(ids) > 0:  # SGLang has no id for the embeddings
            eagle_config[LAYER_IDS_KEY] = [index - 1 for index in ids]
    return written


def foreign_layer_ids(
    top_level: list[int] | None, eagle_config: dict[str, Any] | None
) -> list[int] | None:
    """Return the layer ids that a foreign config names, as HF indices.

    Args:
        top_level: Ids at the top level: HF indices, as vLLM reads them.
        eagle_config: The nested table. Its ids are outputs of 0-based layers, one lower, as SGLang
            reads them.

    Returns:
        HF indices; None where the config names none. ModelOpt writes an empty list then.
    """
    if top_level:
        return list(top_level)
    nested = (eagle_config or {}).get(LAYER_IDS_KEY)
    if not nested:
        return None
    return [index + 1 for index in nested]


def _has_default_layers(extras: dict[str, Any]) -> bool:
    """Whether the engines' own default is right, which they also take where no ids are known."""
    ids = extras.get("aux_layer_ids")
    layers = extras.get("target_num_hidden_layers")
    if ids is None:
        return True
    return layers is not None and list(ids) == [2, layers // 2, layers - 3]
