"""How a model reads a tree: sdpa without copying its cache once per query head.

transformers repeats keys and values for grouped queries whenever a mask is given, a copy of the whole prefix in every layer.
Inside `reading_tree()` the registered "sdpa" packs the queries instead; inside `recording_queries()` it notes what the prompt's
end asks for. Otherwise, and for anything it does not know, it is transformers' own function.
"""

from contextlib import contextmanager
from contextvars import ContextVar

import torch

from eagle_hf.head.attention import grouped_attention

IGNORED = {
    "is_causal",
    "sliding_window",
    "position_ids",
    "use_cache",
    "output_attentions",
    "cache_position",
}  # the mask says it all

_current: ContextVar["Reading | None"] = ContextVar("reading", default=None)
_recorded: ContextVar["Queries | None"] = ContextVar("queries", default=None)


class Reading:
    """The masks of one forward, packed once for all layers."""

    def __init__(self):
        self._packed = []

    def packed(self, mask: torch.Tensor, repeats: int, dtype: torch.dtype) -> torch.Tensor:
        """The mask [B, 1, N, T] as additive [B, 1, repeats * N, T]."""
        for given, times, packed in self._packed:
            if given is mask and times == repeats:
                return packed
        additive = mask
        if mask.dtype == torch.bool:
            additive = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(
                ~mask, float("-inf")
            )
        packed = additive.repeat(1, 1, repeats, 1)
        self._packed.append((mask, repeats, packed))
        return packed


@contextmanager
def reading_tree():
    """Forwards of this thread inside the block are given the masks of trees."""
    token = _current.set(Reading())
    try:
        yield
    finally:
        _current.reset(token)


class Queries:
    """What the tokens at slots `at` [B, n] ask for: by layer, query [B, h, n, D] and scaling."""

    def __init__(self, at: torch.Tensor):
        self.at, self.layers = at, {}

    def record(self, layer: int, query: torch.Tensor, scaling: float | None) -> None:
        """Keep these tokens' share of a layer's query [B, h, S, D]."""
        at = self.at.to(query.device)[:, None, :, None].expand(
            -1, query.shape[1], -1, query.shape[-1]
        )
        self.layers[layer] = query.gather(2, at), scaling


@contextmanager
def recording_queries(queries: Queries):
    """The one forward of this thread inside the block is recorded in `queries`."""
    token = _recorded.set(queries)
    try:
        yield
    finally:
        _recorded.reset(token)


def unknown(kwargs: dict) -> bool:
    """Whether an attention is asked for something that the packed one does not do."""
    return any(value is not None and name not in IGNORED for name, value in kwargs.items())


def around(sdpa):
    """transformers' sdpa, with another way for trees."""

    def attention(module, query, key, value, attention_mask, dropout=0.0, scaling=None, **kwargs):
        if torch.compiler.is_compiling():
            return sdpa(
                module,
                query,
                key,
                value,
                attention_mask,
                dropout=dropout,
                scaling=scaling,
                **kwargs,
            )
        reading, queries = _current.get(), _recorded.get()
        if queries is not None:
            queries.record(module.layer_idx, query, scaling)
        if (
            reading is None
            or attention_mask is None
            or attention_mask.shape[1] != 1
            or key.shape[1] == query.shape[1]
            or unknown(kwargs)
        ):
            return sdpa(
                module,
                query,
                key,
                value,
                attention_mask,
                dropout=dropout,
                scaling=scaling,
                **kwargs,
            )
        mask = reading.packed(attention_mask, query.shape[1] // key.shape[1], query.dtype)
        return grouped_attention(query, key, value, mask, scaling).transpose(
            1, 2
        ).contiguous(), None

    return attention
