"""Which models can keep attention sinks before a rolling window.

Their keys must be turned the way Llama's RoPE turns them, in every layer.
"""

import inspect

from eagle_hf.decoding.probing import wrong_in_turning_sinks
from eagle_hf.target import changing_ropes, text_decoder, unwrap

REMEDY = (
    "draft with a whole cache: WindowedDraft(model, window=None); for SelfSpeculation, give snapkv"
)


def check_sinks(model) -> None:
    """Refuse a model whose sinks cannot be turned to where the window begins.

    Raises:
        ValueError: names what its RoPE does differently.
    """
    decoder = text_decoder(model)
    config = unwrap(model).config.get_text_config()
    name = type(unwrap(model)).__name__
    rotary = getattr(decoder, "rotary_emb", None)
    if not _is_single_rotary(rotary):
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
    wrong = wrong_in_turning_sinks(model)
    if wrong:
        raise ValueError(
            f"{name} rotates a part of its keys, or pairs them in another way than Llama "
            f"({wrong}); {REMEDY}"
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
