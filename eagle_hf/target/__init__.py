"""The frozen target: opening it, its aux hidden states and logits, and what it supports."""

from eagle_hf.target.dtypes import choose_dtype, default_device, resolve_dtype
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
    "choose_dtype",
    "decoder_layers",
    "default_device",
    "draft_rows",
    "lay_adapter",
    "load_target",
    "next_token_summary",
    "position_limit",
    "resolve_dtype",
    "target_logits",
    "target_states",
    "unwrap",
]
