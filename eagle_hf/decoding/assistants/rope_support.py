"""Which models can keep attention sinks before a rolling window.

Their keys must be turned the way Llama's RoPE turns them, in every layer.
"""

import inspect
import sys

import torch

from eagle_hf.decoding.caches.drafter import rotate_keys
from eagle_hf.target import (
    changing_ropes,
    execution_device,
    unwrap,
)

REMEDY = (
    "draft with a whole cache: WindowedDraft(model, window=None); for SelfSpeculation, give snapkv"
)


def check_sinks(model) -> None:
    """Refuse a model whose sinks cannot be turned to where the window begins.

    Raises:
        ValueError: names what its RoPE does differently.
    """
    decoder = unwrap(model).get_decoder()
    config = unwrap(model).config.get_text_config()
    name = type(unwrap(model)).__name__
    rotary = getattr(decoder, "rotary_emb", None)
    module = sys.modules[type(decoder).__module__]
    apply = getattr(module, "apply_rotary_pos_emb", None)
    if apply is None or not _is_single_rotary(rotary):
        raise ValueError(
            f"{name} has no single rotary embedding, so its attention sinks cannot follow a "
            f"window; {REMEDY}"
        )
    if _has_unturned_keys(config):
        raise ValueError(f"{name} has keys that carry no position, or only in part; {REMEDY}")
    changing = changing_ropes(model)
    if changing:
        raise ValueError(
            f"the RoPE of {name} is {changing[0].kind!r}, whose frequencies change with the text's "
            f"length; {REMEDY}"
        )
    if not _turns_like_llama(model, config, rotary, apply):
        raise ValueError(
            f"{name} rotates a part of its keys, or pairs them in another way than Llama; {REMEDY}"
        )


def _is_single_rotary(rotary) -> bool:
    """Whether this is one rotary embedding for all layers, called as Llama's is."""
    if rotary is None:
        return False
    return list(inspect.signature(rotary.forward).parameters) == ["x", "position_ids"]


def _has_unturned_keys(config) -> bool:
    """Whether some keys, or parts of all, carry no position."""
    has_latent_keys = bool(getattr(config, "kv_lora_rank", None))
    uses_rope = getattr(config, "no_rope_layers", None) or [1]  # 1 for a layer with RoPE
    return has_latent_keys or not all(uses_rope)


def _turns_like_llama(model, config, rotary, apply) -> bool:
    """Whether the model turns two probe keys as `rotate_keys` does."""
    width = getattr(config, "head_dim", None)
    if not width:
        width = config.hidden_size // config.num_attention_heads
    device = execution_device(model)
    keys = torch.linspace(-1, 1, 2 * width, device=device).view(1, 1, 2, width)
    cos, sin = rotary(keys, torch.tensor([[3, 4]], device=device))
    if cos.shape[-1] != width:
        return False
    _, turned = apply(keys, keys, cos, sin)
    return torch.allclose(turned, rotate_keys(keys, cos, sin))
