"""Prompts that nobody read: caches full of noise, as if a target of known tokens had read them.

Reading 32 prompts of 32,000 tokens at 8B's shape takes longer than decoding behind them. What was
read, held beside what a run needs, takes the memory twice. So the noise is drawn into the cache of
every run.

B batch, S prompt tokens, V vocabulary, H hidden, g key heads, D head width.
"""

from typing import Any

import torch
from models import Shape, permutation

from eagle_hf.decoding.prefill import Prefilled
from eagle_hf.measuring import PrefilledPrompt


class Noise:
    """Keys and values that are drawn where they are needed.

    Args:
        target: a Llama.
        batch: B.
        length: S.
    """

    def __init__(self, target: Any, batch: int, length: int):
        config = target.config
        self.layers = config.num_hidden_layers
        self.shape = (batch, config.num_key_value_heads, length, config.head_dim)
        self.like = target.lm_head.weight

    def copy_to(self, cache: Any) -> Any:
        """Fill an empty cache; returns it."""
        generator = torch.Generator(self.like.device).manual_seed(0)
        for layer in range(self.layers):
            keys = self.like.new_empty(self.shape).normal_(generator=generator)
            values = self.like.new_empty(self.shape).normal_(generator=generator)
            cache.update(keys, values, layer)
        return cache


class NoisePrompt(PrefilledPrompt):
    """Prompts [B, S] for `TimedRun` and `plain_loop`.

    Args:
        target: of known tokens.
        assistant: who drafts.
        batch: B.
        length: S.
    """

    def __init__(self, target: Any, assistant: Any, batch: int, length: int):
        self.target = target
        self.assistant = assistant
        vocabulary = target.config.vocab_size
        device = target.device
        generator = torch.Generator(device).manual_seed(1)
        self.ids = torch.randint(3, vocabulary, (batch, length), generator=generator, device=device)
        following = permutation(vocabulary).to(device)
        logits = torch.zeros(batch, vocabulary, dtype=target.dtype, device=device)
        logits.scatter_(1, following[self.ids[:, -1:]], 1.0)
        # one state, seen from every slot: the head reads as many as it would
        aux = torch.zeros(1, 1, 3 * target.config.hidden_size, dtype=target.dtype, device=device)
        noise: Any = Noise(target, batch, length)
        self.prefilled = Prefilled(noise, logits, aux.expand(batch, length, -1), None)


def cache_bytes(shape: Shape, batch: int, slots: int) -> int:
    """Bytes of the keys and values of a batch, in two bytes a number."""
    width = shape.hidden // shape.heads
    return 2 * 2 * shape.layers * shape.groups * width * batch * slots


def check_room(needed: float, device: torch.device) -> None:
    """Refuse what a GPU has no room for.

    Raises:
        ValueError: it needs more than the memory that is free.
    """
    if device.type != "cuda":
        return
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    if needed > free:
        raise ValueError(f"needs {needed / 1e9:.0f} GB beside the weights, {free / 1e9:.0f} free")
