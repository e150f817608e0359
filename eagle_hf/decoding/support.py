"""Which models can read trees."""

import inspect

from eagle_hf.compat import attention_implementation, is_recurrent
from eagle_hf.decoding.probing import check_reading_trees
from eagle_hf.target import layer_kinds, unwrap

ATTENTION_KINDS = {"full_attention", "sliding_attention"}
SUPPORTED_ATTENTION = ("sdpa", "eager")


def check_trees(model) -> None:
    """Refuse a target that cannot read trees.

    Raises:
        ValueError: as `check_kind` does, or for a target that reads a tree otherwise than text.
    """
    check_kind(model)
    check_reading_trees(model)


def check_kind(model) -> None:
    """Refuse a kind of model that is known not to read trees.

    Raises:
        ValueError: for an encoder-decoder, recurrent layers, an attention that takes no mask, or a
            forward that takes no positions.
    """
    model = unwrap(model)
    config = model.config.get_text_config()
    name = type(model).__name__
    if model.config.is_encoder_decoder:
        raise ValueError(
            f"{name} is an encoder-decoder model; draft trees need a decoder-only causal LM"
        )
    unknown_kinds = sorted(layer_kinds(config) - ATTENTION_KINDS)
    if is_recurrent(model) or unknown_kinds:
        raise ValueError(
            f"{name} has layers of the kind {unknown_kinds or 'recurrent'}: their state cannot be "
            "rolled back to an accepted branch; use a target whose layers are all (sliding) "
            "attention"
        )
    attention = attention_implementation(config)
    if attention not in SUPPORTED_ATTENTION:
        raise ValueError(
            f"the attn_implementation of {name} is {attention!r}, which takes "
            'no tree mask; load it with attn_implementation="sdpa" (or call '
            'set_attn_implementation("sdpa"))'
        )
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise ValueError(
            f"{name}.forward takes no position_ids, so the nodes of a tree cannot be placed; "
            "use another target"
        )
