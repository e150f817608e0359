"""How a model attends to a tree: sdpa without copying its cache once per query head.

transformers repeats keys and values for grouped queries whenever a mask is given, which copies the
whole prefix in every layer. Inside `tree_attention()` the registered "sdpa" packs the queries
instead. Inside `recording_queries()` it notes what the prompt's last tokens ask for. Otherwise, and
for anything it does not know, it is transformers' own function.

B batch, h query heads, g key heads, S prompt slots, N nodes, T cache slots, D head width.

Module state: the two context variables below.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from eagle_hf.compat import wrap_attention
from eagle_hf.head.attention import grouped_attention

# Arguments that the mask makes superfluous.
IGNORED = {
    "is_causal",
    "sliding_window",
    "position_ids",
    "use_cache",
    "output_attentions",
    "cache_position",
}

_masks: ContextVar["PackedMasks | None"] = ContextVar("packed masks", default=None)
_recorder: ContextVar["QueryRecorder | None"] = ContextVar("query recorder", default=None)


class PackedMasks:
    """The masks of one forward, packed once for all layers."""

    def __init__(self):
        self._packed: list[tuple[torch.Tensor, int, torch.Tensor]] = []

    def pack(self, mask: torch.Tensor, repeats: int, dtype: torch.dtype) -> torch.Tensor:
        """The mask [B, 1, N, T] as an additive one [B, 1, repeats * N, T]."""
        for given, times, packed in self._packed:
            if given is mask and times == repeats:
                return packed
        additive = mask
        if mask.dtype == torch.bool:
            additive = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
            additive.masked_fill_(~mask, float("-inf"))
        packed = additive.repeat(1, 1, repeats, 1)
        self._packed.append((mask, repeats, packed))
        return packed


class QueryRecorder:
    """The queries of the tokens at `slots` [B, n] of a prompt, layer by layer.

    `layers` maps a layer's index to its (query [B, h, n, D], scaling). The prompt may be read in
    several forwards, one chunk behind the other.
    """

    def __init__(self, slots: torch.Tensor):
        self.slots = slots
        self.layers: dict[int, tuple[torch.Tensor, float | None]] = {}
        self._slots_read: dict[int, int] = {}  # by layer

    def record(self, layer: int, query: torch.Tensor, scaling: float | None) -> None:
        """Keep the recorded tokens' part of a layer's query [B, h, C, D] over the next slots."""
        width = query.shape[2]
        start = self._slots_read.get(layer, 0)
        self._slots_read[layer] = start + width
        slots = self.slots.to(query.device)[:, None, :, None] - start  # [B, 1, n, 1]
        index = slots.clamp(0, width - 1).expand(-1, query.shape[1], -1, query.shape[-1])
        found = query.gather(2, index)  # [B, h, n, D]
        if start:
            former, _ = self.layers[layer]
            found = torch.where(slots >= 0, found, former)
        self.layers[layer] = (found, scaling)


@contextmanager
def tree_attention() -> Generator[None]:
    """Inside the block, forwards of this thread are given masks of trees."""
    wrap_attention("sdpa", with_tree_path)
    token = _masks.set(PackedMasks())
    try:
        yield
    finally:
        _masks.reset(token)


@contextmanager
def recording_queries(recorder: QueryRecorder) -> Generator[None]:
    """Inside the block, the forwards of this thread over one prompt are recorded."""
    wrap_attention("sdpa", with_tree_path)
    token = _recorder.set(recorder)
    try:
        yield
    finally:
        _recorder.reset(token)


def with_tree_path(sdpa: Callable) -> Callable:
    """transformers' sdpa, with another path for trees."""

    def attention(
        module, query, key, value, attention_mask, dropout=0.0, scaling=None, **kwargs
    ):  # query [B, h, N, D]; key, value [B, g, T, D]
        masks = recorder = None
        if not torch.compiler.is_compiling():
            masks = _masks.get()
            recorder = _recorder.get()
        # vision towers, which read the prompt's images, do not number their layers
        if recorder is not None and hasattr(module, "layer_idx"):
            recorder.record(module.layer_idx, query, scaling)
        if masks is None or not _suits_tree_path(query, key, attention_mask, kwargs):
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
        repeats = query.shape[1] // key.shape[1]
        mask = masks.pack(attention_mask, repeats, query.dtype)
        output = grouped_attention(query, key, value, mask, scaling)
        return output.transpose(1, 2).contiguous(), None

    return attention


def _suits_tree_path(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, kwargs: dict
) -> bool:
    """Whether the packed attention gains something and does all that is asked for."""
    if mask is None or mask.shape[1] != 1:
        return False
    has_groups = key.shape[1] != query.shape[1]
    return has_groups and not _asks_for_more(kwargs)


def _asks_for_more(kwargs: dict) -> bool:
    """Whether an attention is asked for something that the packed one does not do."""
    return any(value is not None and name not in IGNORED for name, value in kwargs.items())
