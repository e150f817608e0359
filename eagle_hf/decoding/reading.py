"""How a model reads a tree: sdpa without copying its cache once per query head.

transformers repeats keys and values for grouped queries whenever a mask is given, a copy of the whole prefix in every layer.
Inside `reading_tree()` the registered "sdpa" packs the queries instead. Outside of it, and for anything it does not know,
it is transformers' own function.
"""

from contextlib import contextmanager
from contextvars import ContextVar

import torch

from eagle_hf.head.attention import grouped_attention

_current: ContextVar["Reading | None"] = ContextVar("reading", default=None)


class Reading:
    """The masks of one forward, packed once for all layers."""

    def __init__(self):
        self._given, self._packed = [], []

    def packed(self, mask: torch.Tensor, repeats: int, dtype: torch.dtype) -> torch.Tensor:
        """The mask [B, 1, N, T] as additive [B, 1, repeats * N, T]."""
        for given, packed in zip(self._given, self._packed):
            if given is mask:
                return packed
        additive = mask
        if mask.dtype == torch.bool:
            additive = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))
        self._given.append(mask)
        self._packed.append(additive.repeat(1, 1, repeats, 1))
        return self._packed[-1]


@contextmanager
def reading_tree():
    """Forwards of this thread inside the block are given the masks of trees."""
    token = _current.set(Reading())
    try:
        yield
    finally:
        _current.reset(token)


def around(sdpa):
    """transformers' sdpa, with another way for trees."""

    def attention(module, query, key, value, attention_mask, dropout=0.0, scaling=None, **kwargs):
        reading, grouped = _current.get(), key.shape[1] < query.shape[1]
        known = {name for name, value in kwargs.items() if value is not None} <= IGNORED
        if reading is None or attention_mask is None or not grouped or not known or attention_mask.shape[1] != 1:
            return sdpa(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
        mask = reading.packed(attention_mask, query.shape[1] // key.shape[1], query.dtype)
        return grouped_attention(query, key, value, mask, scaling).transpose(1, 2).contiguous(), None

    return attention


IGNORED = {"is_causal", "sliding_window", "position_ids", "use_cache", "output_attentions", "cache_position"}  # the mask says it all
