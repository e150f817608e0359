"""The frozen target: opening it, its aux hidden states and logits, and what it supports."""

from eagle_hf.target.adapter_kinds import check_adapters, check_whole_adapters
from eagle_hf.target.adapters import lay_adapter
from eagle_hf.target.aux_hidden_states import (
    AuxStates,
    aux_layer_ids,
    capture_aux,
    prepared_images,
    target_states,
)
from eagle_hf.target.compatibility import check_compatible
from eagle_hf.target.dtypes import choose_dtype, default_device, resolve_dtype
from eagle_hf.target.logits import (
    draft_vocab_logits,
    logit_scaling,
    next_token_summary,
    target_logits,
)
from eagle_hf.target.modules import execution_device
from eagle_hf.target.opening import load_processor, load_target
from eagle_hf.target.rope import ChangingRope, changing_ropes, rope_limit
from eagle_hf.target.structure import (
    decoder_layers,
    embedded_ids,
    final_norm_gain,
    layer_kinds,
    position_limit,
    text_decoder,
    unwrap,
)
from eagle_hf.target.teaching import check_teacher, choose_aux_layer_ids

__all__ = [
    "AuxStates",
    "ChangingRope",
    "aux_layer_ids",
    "capture_aux",
    "changing_ropes",
    "check_adapters",
    "check_compatible",
    "check_teacher",
    "check_whole_adapters",
    "choose_aux_layer_ids",
    "choose_dtype",
    "decoder_layers",
    "default_device",
    "draft_vocab_logits",
    "embedded_ids",
    "execution_device",
    "final_norm_gain",
    "lay_adapter",
    "layer_kinds",
    "load_processor",
    "load_target",
    "logit_scaling",
    "next_token_summary",
    "position_limit",
    "prepared_images",
    "resolve_dtype",
    "rope_limit",
    "target_logits",
    "target_states",
    "text_decoder",
    "unwrap",
]
