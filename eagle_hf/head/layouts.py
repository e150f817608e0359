"""The one on-disk layout: dictionaries in, dictionaries out, no tensors computed.

A saved head is what vLLM, SGLang and llama.cpp load: their architecture name, `model_type` llama, RoPE in the new
and the legacy schema, no layer ids for the default layers (every engine then reads (2, n//2, n-3)). Other layers are written
twice, because engines disagree on what an id means: HF indices at the top level, for vLLM and llama.cpp, and each one lower
inside `eagle_config`, for SGLang.
"""

from typing import Any

ARCHITECTURE = "LlamaForCausalLMEagle3"
LAYER_IDS_KEY = "eagle_aux_hidden_state_layer_ids"


def engine_config(config: dict[str, Any]) -> dict[str, Any]:
    """The dictionary written to config.json for the attributes of an `Eagle3Config`."""
    written = {key: value for key, value in config.items() if not key.startswith("_")}
    rope = dict(written.get("rope_parameters") or {})
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    written["architectures"] = [ARCHITECTURE]
    written["tie_word_embeddings"] = False
    written["rope_theta"] = rope.get("rope_theta")
    written["rope_scaling"] = None if scaling.get("rope_type", "default") == "default" else scaling
    written["eagle_config"] = {"use_aux_hidden_state": True}
    written["eagle_hf"] = (
        written.get("eagle_hf") or {}
    )  # even empty: by this key the layout is told from the other dialects
    written.pop(LAYER_IDS_KEY, None)
    if not _default_layers(written["eagle_hf"]):
        ids = written[LAYER_IDS_KEY] = list(written["eagle_hf"]["aux_layer_ids"])
        if min(ids) > 0:  # SGLang has no id for the embeddings
            written["eagle_config"][LAYER_IDS_KEY] = [index - 1 for index in ids]
    return written


def foreign_layer_ids(
    top_level: list[int] | None, eagle_config: dict[str, Any] | None
) -> list[int] | None:
    """HF indices of the layer ids a foreign config names, None where it names none (ModelOpt writes an empty list).

    Top level: HF indices, as vLLM reads them. Under eagle_config: outputs of 0-based layers, one lower, as SGLang does.
    """
    if top_level:
        return list(top_level)
    nested = (eagle_config or {}).get(LAYER_IDS_KEY)
    return [index + 1 for index in nested] if nested else None


def _default_layers(extras: dict[str, Any]) -> bool:
    """Whether the engines' own default is what the head was trained on (true too where no ids are known)."""
    ids, layers = extras.get("aux_layer_ids"), extras.get("target_num_hidden_layers")
    return ids is None or (layers is not None and list(ids) == [2, layers // 2, layers - 3])
