"""The layer ids in a config.json by which an engine reads the layers a head was trained on."""

from typing import Any

from transformers import PretrainedConfig

from eagle_hf.head.configuration import Eagle3Config, default_aux_layer_ids
from eagle_hf.head.layouts import LAYER_IDS_KEY
from eagle_hf.hub.engines import LLAMA_CPP, SGLANG, VLLM, Engine, LayerIds
from eagle_hf.hub.export.support import name_supporting


def engine_layer_ids(
    config: Eagle3Config, engine: Engine, target: PretrainedConfig | None = None
) -> dict[str, Any]:
    """What a config.json says of the layers to this engine: nothing, for the default ones.

    Args:
        config: The head's.
        engine: The engine that reads it.
        target: The target's config, on which SGLang's ids depend.

    Raises:
        ValueError: The engine cannot be made to read these layers.
    """
    # The default layers are what every engine reads without a list.
    ids = other_layers(config, target)
    if ids is None:
        return {}
    if engine.layer_ids is LayerIds.TOP_LEVEL:
        return {LAYER_IDS_KEY: ids}
    elsewhere = f"serve it with {name_supporting(config, VLLM, LLAMA_CPP)}"
    if engine.layer_ids is LayerIds.FIXED:
        raise ValueError(
            f"OpenVINO GenAI reads the layers (2, n//2, n-3) of any target, and this head {ids}; "
            f"{elsewhere}"
        )
    if target is None:
        raise ValueError(
            f"this head reads the layers {ids}, which SGLang counts by the kind of target; "
            "name the target: --target"
        )
    return {"eagle_config": {LAYER_IDS_KEY: _sglang_ids(ids, target, elsewhere)}}


def _sglang_ids(ids: list[int], target: PretrainedConfig, elsewhere: str) -> list[int]:
    """HF indices as SGLang counts them for this kind of target."""
    if not SGLANG.hf_index_targets.isdisjoint(target.architectures or []):
        # A list that starts with 1 counts outputs even here.
        if ids[0] == 1:
            raise ValueError(
                f"SGLang would read one layer further than {ids} in this target, "
                f"since the first is 1; {elsewhere}"
            )
        return ids
    if ids[0] == 0:
        raise ValueError(
            f"this head reads the layers {ids}, and SGLang has no id for the embeddings; "
            f"{elsewhere}"
        )
    # The output of a layer is the input of the next.
    return [index - 1 for index in ids]


def other_layers(config: Eagle3Config, target: PretrainedConfig | None = None) -> list[int] | None:
    """HF indices of the layers whose inputs the head reads, where they are not the default.

    Args:
        config: The head's.
        target: The target's config, for the depth of a target that the head does not know.

    Returns:
        The indices; None where they are the engines' own default, (2, n//2, n-3).

    Raises:
        ValueError: The layers are not ascending; engines take each layer once and in order.
    """
    # The depth decides what the default is.
    layers = (config.eagle_hf or {}).get("target_num_hidden_layers")
    if not layers and target is not None:
        layers = target.get_text_config().num_hidden_layers
    default = default_aux_layer_ids(layers) if layers else None
    ids = config.aux_layer_ids or default
    if ids is None:
        return None
    ids = list(ids)
    if ids != sorted(set(ids)):
        raise ValueError(
            f"this head reads the layers {ids}; engines take every layer once and in ascending "
            "order, so train one that does"
        )
    return None if ids == default else ids
