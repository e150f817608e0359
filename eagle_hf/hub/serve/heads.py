"""What to know of a head on every engine: layers, memory, time to first token, trained length."""

from copy import deepcopy

import torch

from eagle_hf.head.configuration import Eagle3Config
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.hub.engines import Engine
from eagle_hf.hub.export.layer_ids import other_layers
from eagle_hf.hub.serve.command import Caveat

BYTES_PER_VALUE = 2  # bfloat16


def list_head_caveats(engine: Engine, config: Eagle3Config) -> list[Caveat]:
    """What to know of a head on this engine."""
    caveats = [
        _describe_layers(engine, config),
        _describe_memory(config),
        Caveat(
            "It reads the prompt too, so the first token comes later than without it.",
            "EAGLE-3, arXiv 2503.01840",
        ),
    ]
    length = (config.eagle_hf or {}).get("trained_length")
    if length:
        text = (
            f"It was trained on texts of up to {length} tokens; beyond, engines have no attention "
            "sinks for it, and less may be accepted."
        )
        caveats.append(Caveat(text, "the head's config"))
    return caveats


def _describe_layers(engine: Engine, config: Eagle3Config) -> Caveat:
    """Which layers the head reads, and how the engine knows of them."""
    ids = other_layers(config)
    if ids is None:
        text = (
            "The head reads the default layers, (2, n//2, n-3): no ids are written, and the engine "
            "falls back to them."
        )
        return Caveat(text, engine.run)
    text = (
        f"The head reads the layers {ids}; this engine is told so by {engine.layer_ids.value}, "
        "others look elsewhere."
    )
    return Caveat(text, engine.read)


def _describe_memory(config: Eagle3Config) -> Caveat:
    """What weights and KV cache take on an engine that runs in bfloat16."""
    with torch.device("meta"):  # shapes alone
        head = Eagle3DraftHead(deepcopy(config))
    weights = BYTES_PER_VALUE * sum(weight.numel() for weight in head.parameters())
    # One layer's keys and values.
    cache = 2 * BYTES_PER_VALUE * config.num_key_value_heads * config.head_dim
    text = (
        f"It takes {weights / 1e6:,.1f} MB in bfloat16, and {cache:,} bytes of cache for every "
        "token of every text."
    )
    return Caveat(text, "computed")
