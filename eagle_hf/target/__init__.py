"""The frozen target: opening it, its aux hidden states and logits, and what it supports."""

from eagle_hf.target.opening import (
    AuxStates,
    aux_layer_ids,
    capture_aux,
    check_compatible,
    decoder_layers,
    draft_rows,
    lay_adapter,
    load_target,
    next_token_summary,
    position_limit,
    target_logits,
    target_states,
    unwrap,
)

__all__ = [
    "AuxStates",
    "aux_layer_ids",
    "capture_aux",
    "check_compatible",
    "decoder_layers",
    "draft_rows",
    "lay_adapter",
    "load_target",
    "next_token_summary",
    "position_limit",
    "target_logits",
    "target_states",
    "unwrap",
]
