"""Which of the target's layers each engine reads: one list means different layers to each.

Everything here is compared as HF `hidden_states` indices; engines.py says where an engine looks and
how it counts. An example, for a target of 8 layers:

    config.json                    vLLM, llama.cpp    SGLang       OpenVINO
    no list                        [2, 4, 5]          [2, 4, 5]    [3, 5, 6]
    top level [1, 3, 6]            [1, 3, 6]          [2, 4, 5]    [3, 5, 6]
    eagle_config [0, 2, 5]         [2, 4, 5]          [1, 3, 6]    [3, 5, 6]
"""

from typing import Any

from eagle_hf.head.layouts import LAYER_IDS_KEY, foreign_layer_ids
from eagle_hf.hub.engines import EAGLE_HF, ENGINES, SGLANG, Engine, LayerIds
from eagle_hf.hub.saved_head import SavedHead
from eagle_hf.hub.saved_target import Target

Ids = list[int]
MOST_LAYERS = 2**16  # ids beyond are no layers of any model


def read_top_level_ids(head: SavedHead) -> Ids | None:
    """The list at the config's top level; None where it is absent, empty or no list of integers."""
    return _as_ids(head.raw.get(LAYER_IDS_KEY))


def read_nested_ids(head: SavedHead) -> Ids | None:
    """The list inside `eagle_config`, likewise."""
    return _as_ids(head.table("eagle_config").get(LAYER_IDS_KEY))


def read_own_ids(head: SavedHead) -> Ids | None:
    """The list under our own key `eagle_hf`, likewise."""
    return _as_ids(head.table("eagle_hf").get("aux_layer_ids"))


def _as_ids(value: Any) -> Ids | None:
    """The value, if it is a list of integers that could be layers."""
    if not isinstance(value, list) or not value:
        return None
    if any(type(index) is not int or abs(index) >= MOST_LAYERS for index in value):
        return None
    return value


def find_depth(head: SavedHead, target: Target | None) -> int | None:
    """How many layers the target has; None where nothing says so."""
    if target is not None:
        layers = target.config.get("num_hidden_layers")
    else:
        layers = head.table("eagle_hf").get("target_num_hidden_layers")
    return layers if type(layers) is int and layers >= 3 else None


def find_family(target: Target | None) -> str | None:
    """The target's class, by which SGLang decides what a list means."""
    names = target.config.get("architectures") if target else None
    if not isinstance(names, list) or not names:
        return None
    return names[0] if isinstance(names[0], str) else None


def default_layers(layers: int | None) -> Ids | None:
    """HF indices that engines read without a list; None for a target of unknown depth."""
    return None if layers is None else [2, layers // 2, layers - 3]


def trained_layers(head: SavedHead, layers: int | None, family: str | None) -> Ids | None:
    """HF indices of the layers that the head was trained on; None where nothing names them.

    Our own key counts first. Other lists mean what they mean where they are written.
    """
    named = read_own_ids(head) or read_top_level_ids(head)
    if named:
        return named
    nested = read_nested_ids(head)
    return sglang_layers(nested, layers, family) if nested else None


def read_layers(
    head: SavedHead, layers: int | None, family: str | None
) -> dict[Engine, Ids | None]:
    """HF indices of the layers that each engine reads for this head.

    None stands for the engine's default on a target of unknown depth.
    """
    return {engine: _layers_of_engine(engine, head, layers, family) for engine in ENGINES}


def _layers_of_engine(
    engine: Engine, head: SavedHead, layers: int | None, family: str | None
) -> Ids | None:
    """HF indices of the layers that one engine reads."""
    top_level = read_top_level_ids(head)
    nested = read_nested_ids(head)
    default = default_layers(layers)
    if engine is EAGLE_HF:
        foreign = foreign_layer_ids(top_level, {LAYER_IDS_KEY: nested})
        return read_own_ids(head) or foreign or default
    if engine.layer_ids is LayerIds.TOP_LEVEL:
        return top_level or default
    if engine.layer_ids is LayerIds.EAGLE_CONFIG:
        return sglang_layers(nested, layers, family) if nested else default
    # The output of those layers, which is the input of the next.
    return [index + 1 for index in default] if default else None


def sglang_layers(nested: Ids, layers: int | None, family: str | None) -> Ids:
    """HF indices of SGLang's nested list, whose meaning depends on the target's class."""
    if family in SGLANG.hf_index_targets and nested[0] != 1:
        return list(nested)
    # This class counts as HF does only where the list names the last layer's output.
    if family == "GptOssForCausalLM" and max(nested) == layers:
        return list(nested)
    return [index + 1 for index in nested]


def nested_ids(trained: Ids, layers: int | None, family: str | None) -> Ids | None:
    """The nested list by which SGLang reads these HF indices.

    None where there is none: the embeddings, HF index 0, have no number.
    """
    one_lower = [index - 1 for index in trained]
    for ids in (one_lower, trained):
        if min(ids) >= 0 and sglang_layers(ids, layers, family) == trained:
            return ids
    return None
