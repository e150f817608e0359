"""The parts of a target model that the rest of the package looks at.

Models differ in what wraps them and in how they name their parts; these differences end here.
"""

from typing import Any

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


def decoder_layers(target: Any) -> nn.ModuleList:
    """Return the target's decoder layers, in order.

    Args:
        target: A causal LM.

    Raises:
        ValueError: It is no decoder-only model with one list of layers.
    """
    decoder = unwrap(target).get_decoder()
    layers = None
    for name in LAYER_NAMES:
        if hasattr(decoder, name):
            layers = getattr(decoder, name)
            break
    if not isinstance(layers, nn.ModuleList):
        raise ValueError(
            f"{type(unwrap(target)).__name__} has no list of layers in its decoder "
            f"({type(decoder).__name__}), so its hidden states cannot be read; "
            "use a decoder-only causal LM of the Llama kind"
        )
    return layers


def position_limit(model: Any) -> int:
    """Return how many positions a model knows.

    Args:
        model: A causal LM.

    Returns:
        The length of its table of positions. 2^31 for RoPE, which has no such table.
    """
    model = unwrap(model)
    if hasattr(model.get_decoder(), "rotary_emb"):
        return UNLIMITED
    config = model.config.get_text_config()
    return getattr(config, "max_position_embeddings", None) or UNLIMITED
