"""The parts of a target model that the rest of the package looks at.

Models differ in what wraps them and in how they name their parts; these differences end here.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

LAYER_NAMES = ("layers", "h", "blocks")  # Llama and most others; GPT-2 and Falcon; MPT
UNLIMITED = 2**31  # more positions than any text has


def unwrap(model: Any) -> PreTrainedModel:
    """Return the transformers model inside PEFT, DDP and torch.compile wrappers.

    Args:
        model: The wrapped model. Adapter layers stay in place.
    """
    while True:
        if hasattr(model, "get_base_model"):
            model = model.get_base_model()
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod
        elif isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


def text_decoder(target: Any) -> nn.Module:
    """Return the model below the LM head: its embeddings, its layers, its final norm.

    Args:
        target: A causal LM.
    """
    model = unwrap(target)
    found = model.get_decoder()
    if _layer_list(found) is not None:
        return found
    # Llama 4, Mllama and ModernBERT's decoder answer with another module, BLIP-2 with a causal LM
    others = [getattr(model, "model", None)]
    if isinstance(found, PreTrainedModel):
        others.append(found.get_decoder())
    for other in others:
        if isinstance(other, nn.Module) and _layer_list(other) is not None:
            return other
    return found


def _layer_list(decoder: nn.Module) -> nn.ModuleList | None:
    """The layers of a decoder, by the first of their names that it has; None without a list."""
    for name in LAYER_NAMES:
        if hasattr(decoder, name):
            layers = getattr(decoder, name)
            return layers if isinstance(layers, nn.ModuleList) else None
    return None


def decoder_layers(target: Any) -> nn.ModuleList:
    """Return the target's decoder layers, in order.

    Args:
        target: A causal LM.

    Raises:
        ValueError: It is no decoder-only model with one list of layers.
    """
    decoder = text_decoder(target)
    layers = _layer_list(decoder)
    if layers is None:
        raise ValueError(
            f"{type(unwrap(target)).__name__} has no list of layers in its decoder "
            f"({type(decoder).__name__}), so its hidden states cannot be read; "
            "use a decoder-only causal LM of the Llama kind"
        )
    return layers


def embedded_ids(target: Any, token_ids: torch.Tensor) -> torch.Tensor:
    """Return ids that the target's embedding table holds.

    Some image-text models have placeholders beyond their vocabulary. No embedding is read for them
    there, and token 0 stands for them here.

    Args:
        target: A causal LM.
        token_ids: Any shape, int64.
    """
    vocab_size = unwrap(target).config.get_text_config().vocab_size
    return token_ids.masked_fill(token_ids >= vocab_size, 0)


def check_lm_head(target: Any) -> None:
    """Check that a target has an LM head.

    Args:
        target: A causal LM.

    Raises:
        ValueError: It has none.
    """
    model = unwrap(target)
    if model.get_output_embeddings() is None:
        raise ValueError(
            f"{type(model).__name__} has no LM head; load it with AutoModelForCausalLM"
        )


def context_length(model: Any) -> int | None:
    """Return how many tokens a model's config allows.

    Args:
        model: A causal LM.

    Returns:
        `max_position_embeddings`; None where the config does not say.
    """
    return getattr(unwrap(model).config.get_text_config(), "max_position_embeddings", None)


def position_limit(model: Any) -> int:
    """Return how many positions a model knows.

    Args:
        model: A causal LM.

    Returns:
        The length of its table of positions. 2^31 for RoPE, which has no such table.
    """
    model = unwrap(model)
    if hasattr(text_decoder(model), "rotary_emb"):
        return UNLIMITED
    return context_length(model) or UNLIMITED


def layer_kinds(config: Any) -> set[str]:
    """Return the kinds of attention that a model's layers have.

    Args:
        config: The model's text config. An unknown kind is returned as the config calls it.
    """
    kinds = set(getattr(config, "layer_types", None) or [])
    if kinds:
        return kinds
    has_window = bool(getattr(config, "sliding_window", None))
    return {"sliding_attention" if has_window else "full_attention"}
