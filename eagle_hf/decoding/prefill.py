"""How a prompt is read: whole, or in chunks, whose forwards need memory for a chunk alone.

B batch, S prompt slots, H hidden, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.utils import logging

from eagle_hf.compilation.graphs import MOST_TOKENS
from eagle_hf.decoding.caches.target import TargetCache
from eagle_hf.decoding.chunks import read_chunks, read_compiled_chunks, uncut_argument
from eagle_hf.decoding.forward import Output, TargetForward
from eagle_hf.decoding.masks import TreeMask
from eagle_hf.decoding.probing import wrong_in_reading_chunks
from eagle_hf.decoding.snapkv import Selection
from eagle_hf.head.trees import TreeConfig
from eagle_hf.target import has_activated_lora

logger = logging.get_logger(__name__)

# Tokens, with compile=True where the call does not say. Prompts of 3,000 tokens took 6 % more CPU
# time than as a whole on a small Llama, in chunks of 256 12 %.
COMPILED_CHUNK = 512


@dataclass(frozen=True)
class Prefilled:
    """Prompts as a target has read them.

    Attributes:
        cache: their keys and values.
        logits: [B, V] at their ends.
        aux: aux hidden states [B, S, 3H] for the drafter.
        selection: what the drafter recorded meanwhile.
    """

    cache: TargetCache
    logits: torch.Tensor
    aux: torch.Tensor | None
    selection: Selection | None


def chunk_size(config: GenerationConfig, tree: TreeConfig) -> int | None:
    """Return how many tokens of a prompt are read at a time; None for the whole.

    Args:
        config: Of a prepared call. Its `prefill_chunk_size` goes before the tree's default.
        tree: What is drafted.
    """
    if config.prefill_chunk_size is not None:
        return config.prefill_chunk_size
    return COMPILED_CHUNK if tree.compile else None


def read_prompt(
    forward: TargetForward,
    prepared: dict[str, Any],
    size: int | None,
    masks: TreeMask | None = None,
) -> Output:
    """Read a prompt into the target's empty cache.

    Args:
        forward: Of the target.
        prepared: What the target takes for reading the whole prompt, its cache left out.
        size: Tokens of a chunk; None for the whole.
        masks: Let a compiled forward read the prompt, where there is one, and tokens see each other
            as these say; None lets the target read it.

    Returns:
        Logits [B, n, V], of which the last are those at the prompt's end, and aux hidden states
        [B, S, 3H] of all slots. Both are those of a whole prompt, but for what stands at padding.
    """
    tokens = prepared["input_ids"]
    slots = tokens.shape[1]
    is_short = size is None or slots <= size
    is_compiled = masks is not None and forward.reads_compiled_text
    if is_short and not is_compiled:
        return forward.read_prompt(**prepared)
    size = size or slots
    obstacle = _obstacle(forward.target, prepared)
    if not obstacle and is_compiled:
        return read_compiled_chunks(forward, tokens, masks, min(size, MOST_TOKENS))
    if not obstacle:
        return read_chunks(forward, prepared, size)
    if not is_short:
        logger.warning_once(f"a prompt is read whole, not in chunks: {obstacle}")
    return forward.read_prompt(**prepared)


def _obstacle(target: Any, prepared: dict[str, Any]) -> str:
    """Why the target cannot read a prompt in chunks, "" where it can."""
    name = uncut_argument(prepared)
    if name is not None:
        return f"the target reads {name} beside its tokens, which is not cut"
    if has_activated_lora(target):
        return "an activated LoRA counts from the prompt's end where it begins to work"
    wrong = wrong_in_reading_chunks(target)
    return f"the target reads chunks otherwise ({wrong})" if wrong else ""
