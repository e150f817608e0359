"""A head's settings, from its target's config.

A head is one Llama layer, because every engine computes that. It takes over what it shares with its
target: widths, vocabulary, special tokens, context length, RoPE's base frequency. Where a target's
number differs from layer to layer, or would mean something else in a Llama layer, the head has one
of its own.
"""

import math
from typing import Any

from transformers.utils import logging

from eagle_hf.compat import layer_values

logger = logging.get_logger(__name__)

HIDDEN_ACT = "silu"  # the only one that all engines compute
HEAD_WIDTHS = (128, 64, 32, 16, 8, 4, 2)  # of an attention of the head's own; RoPE turns pairs
MLP_FACTOR = 4  # the MLP's width where the target's says nothing, as a multiple of hidden_size
EPSILONS = (1e-12, 1e-3)  # of an RMSNorm; anything else is a mistake
INITIAL_GAINS = (0.02, 5.0)  # what a fresh matrix may do to the size of a normed state

# Names that a setting also goes by, in configs whose own attribute_map does not say so.
OTHER_NAMES = {
    "hidden_size": ("n_embd", "d_model"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads"),
    "max_position_embeddings": ("n_positions", "n_ctx", "max_seq_len", "seq_length"),
    "rope_theta": ("rotary_emb_base", "global_rope_theta", "rotary_base"),
    "hidden_act": ("hidden_activation", "activation_function", "activation"),
}
EMBEDDING_WIDTHS = ("word_embed_proj_dim", "embedding_size", "input_embedding_size")


def single_value(config: Any, name: str) -> Any:
    """Return the one value that a setting has in all layers, by whichever name.

    Args:
        config: A text model's config.
        name: As Llama's config calls it.

    Returns:
        The value. None where there is none, or where layers differ.
    """
    for known_as in (name, *OTHER_NAMES.get(name, ())):
        values = layer_values(config, known_as)
        if values:
            return values[0] if len(values) == 1 else None
    return None


def target_size(config: Any, name: str) -> int:
    """Return a size that every target has.

    Args:
        config: A text model's config.
        name: As Llama's config calls it.

    Raises:
        ValueError: The config does not say it, or says several.
    """
    size = single_value(config, name)
    if not isinstance(size, int) or size < 1:
        names = (name, *OTHER_NAMES.get(name, ()))
        raise ValueError(
            f"{type(config).__name__} says {size!r} for {' or '.join(names)}; a head is sized by "
            "it: use a target whose config has this size, the same in all layers"
        )
    return size


def shared_settings(config: Any) -> dict[str, Any]:
    """Choose the settings of a head for a target.

    Args:
        config: The target's text config.

    Returns:
        Fields of `Eagle3Config`.

    Raises:
        ValueError: The target has no width or vocabulary that a head can share.
    """
    width = target_size(config, "hidden_size")
    _check_embedding_width(config, width)
    settings = {
        "vocab_size": target_size(config, "vocab_size"),
        "hidden_size": width,
        "intermediate_size": _mlp_width(config, width),
        "hidden_act": HIDDEN_ACT,
        "rms_norm_eps": _epsilon(config),
        "initializer_range": _initializer_range(config, width),
        "max_position_embeddings": _context_length(config),
        "rope_parameters": _rope(config),
        "bos_token_id": _first_token(config, "bos_token_id"),
        "eos_token_id": getattr(config, "eos_token_id", None),
        "pad_token_id": _first_token(config, "pad_token_id"),
        **_attention_shape(config, width),
    }
    return {name: value for name, value in settings.items() if value is not None}


def say_activation(config: Any) -> None:
    """Say once that a head does not take over its target's activation."""
    activation = single_value(config, "hidden_act")
    if isinstance(activation, str) and activation not in (HIDDEN_ACT, "swish"):
        logger.warning_once(
            f"the target's activation is {activation}; the head gets {HIDDEN_ACT}, the only one "
            f"that all engines compute. hidden_act={activation!r} makes one for this package alone"
        )


def _check_embedding_width(config: Any, width: int) -> None:
    """Refuse embeddings of another width than the hidden states, as far as the config says it."""
    for name in EMBEDDING_WIDTHS:
        found = getattr(config, name, None)
        if found not in (None, width):
            raise ValueError(
                f"{type(config).__name__} has {name}={found} and hidden_size={width}; a head reads "
                "embeddings and hidden states side by side, and engines build it for one width: "
                "use a target whose embeddings are as wide as its hidden states"
            )


def _attention_shape(config: Any, width: int) -> dict[str, int]:
    """Heads, groups and their width: the target's, or the head's own where that is no one shape."""
    heads = single_value(config, "num_attention_heads")
    groups = single_value(config, "num_key_value_heads")
    head_dim = single_value(config, "head_dim")
    if not layer_values(config, "num_key_value_heads"):
        groups = heads
    if not layer_values(config, "head_dim") and isinstance(heads, int) and heads > 0:
        head_dim = width // heads
    sizes = (heads, groups, head_dim)
    are_sizes = all(isinstance(size, int) and size > 0 for size in sizes)
    if not are_sizes or width % heads or heads % groups or head_dim % 2:
        head_dim = next((size for size in HEAD_WIDTHS if width % size == 0), 2)
        heads = max(1, width // head_dim) if width % head_dim == 0 else 1
        groups = heads
    return {"num_attention_heads": heads, "num_key_value_heads": groups, "head_dim": head_dim}


def _mlp_width(config: Any, width: int) -> int:
    """The widest of the target's MLPs.

    Not wider than the hidden states, it is one expert of many, and the head has a width of its own.
    """
    sizes = [size for size in layer_values(config, "intermediate_size") if isinstance(size, int)]
    widest = max(sizes, default=0)
    return widest if widest >= width else MLP_FACTOR * width


def _epsilon(config: Any) -> float | None:
    """The epsilon of the target's RMSNorms; a LayerNorm's goes by other names."""
    epsilon = single_value(config, "rms_norm_eps")
    is_usable = isinstance(epsilon, float) and EPSILONS[0] <= epsilon <= EPSILONS[1]
    return epsilon if is_usable else None


def _initializer_range(config: Any, width: int) -> float | None:
    """The spread of fresh weights: the target's, unless it would silence or blow up a state."""
    spread = single_value(config, "initializer_range")
    if not isinstance(spread, (int, float)):
        return None
    gain = spread * math.sqrt(width)
    is_usable = INITIAL_GAINS[0] <= gain <= INITIAL_GAINS[1]
    return float(spread) if is_usable else 1 / math.sqrt(width)


def _context_length(config: Any) -> int | None:
    """How many tokens the target reads; None where its config sets no limit."""
    length = single_value(config, "max_position_embeddings")
    return length if isinstance(length, int) and length > 0 else None


def _rope(config: Any) -> dict[str, Any] | None:
    """RoPE with the base frequency of the target's, without its scaling for long texts.

    Where kinds of layers differ, it is that of the layers that look farthest: the greatest.
    """
    found = layer_values(config, "rope_parameters")
    tables = []
    for table in found:
        kinds = [part for part in table.values() if isinstance(part, dict)]
        tables += kinds or [table]
    thetas = [table["rope_theta"] for table in tables if table.get("rope_theta")]
    alone = single_value(config, "rope_theta")  # of configs that have no such table
    if not thetas and alone is not None:
        thetas = [alone]
    if not thetas:
        return None
    return {"rope_type": "default", "rope_theta": max(thetas)}


def _first_token(config: Any, name: str) -> int | None:
    """A special token of which a head knows one; None where there is none in the vocabulary."""
    token = getattr(config, name, None)
    if isinstance(token, (list, tuple)):
        token = token[0] if token else None
    return token if isinstance(token, int) and token >= 0 else None
