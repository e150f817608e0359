"""The frozen target: opening it, its aux hidden states and logits, and what it supports."""

from eagle_hf.target.adapter_checks import (
    adapters_of,
    check_adapters,
    check_adapters_outside_generate,
    has_activated_lora,
)
from eagle_hf.target.adapter_opening import lay_adapter
from eagle_hf.target.aux_hidden_states import (
    AuxStates,
    aux_layer_ids,
    capture_aux,
    prepared_images,
    target_states,
)
from eagle_hf.target.compatibility import check_compatible
from eagle_hf.target.dtypes import choose_dtype, default_device, resolve_dtype
from eagle_hf.target.evaluating import evaluating
from eagle_hf.target.final_norm import apply_final_norm, final_norm_gain
from eagle_hf.target.gguf import gguf_file
from eagle_hf.target.layer_states import read_layer_states
from eagle_hf.target.logits import (
    draft_vocab_logits,
    logit_scaling,
    next_token_summary,
    target_logits,
)
from eagle_hf.target.matrices import execution_device
from eagle_hf.target.opening import load_processor, load_target
from eagle_hf.target.ordinary_tokens import ordinary_ids
from eagle_hf.target.rope import ChangingRope, changing_ropes, rope_limit
from eagle_hf.target.structure import (
    context_length,
    decoder_layers,
    embedded_ids,
    layer_kinds,
    position_limit,
    text_decoder,
    unwrap,
)
from eagle_hf.target.teaching import check_teacher, choose_aux_layer_ids

__all__ = [
    "adapters_of",
    "AuxStates",
    "ChangingRope",
    "apply_final_norm",
    "aux_layer_ids",
    "capture_aux",
    "changing_ropes",
    "check_adapters",
    "check_compatible",
    "check_teacher",
    "check_adapters_outside_generate",
    "choose_aux_layer_ids",
    "choose_dtype",
    "decoder_layers",
    "default_device",
    "context_length",
    "draft_vocab_logits",
    "evaluating",
    "embedded_ids",
    "execution_device",
    "final_norm_gain",
    "gguf_file",
    "has_activated_lora",
    "lay_adapter",
    "layer_kinds",
    "load_processor",
    "load_target",
    "logit_scaling",
    "next_token_summary",
    "ordinary_ids",
    "position_limit",
    "prepared_images",
    "read_layer_states",
    "resolve_dtype",
    "rope_limit",
    "target_logits",
    "target_states",
    "text_decoder",
    "unwrap",
]
