"""The drafter's cache: what it has read, in the slots that a `SlotMap` hands out.

B batch, g key heads, n new tokens, C kept slots, T slots in use, D head width. The nodes of a tree
are written behind the committed slots and overwritten by the next tree.
"""

from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache, DynamicLayer
from transformers.models.llama.modeling_llama import rotate_half

from eagle_hf.decoding.caches.buffers import BufferPool, room_in, with_room
from eagle_hf.decoding.window import SlotMap


@dataclass(frozen=True)
class PromptPlacement:
    """The next keys are a prompt's; `kept` [B, C] numbers those that stay, slot by slot."""

    kept: torch.Tensor


@dataclass(frozen=True)
class SlotPlacement:
    """The next keys go to `slots` [B, n]; attention then reads the first `length` slots."""

    slots: torch.Tensor
    length: int


class DraftCache(Cache):
    """A drafter's keys and values, a `DraftLayer` per layer.

    Args:
        pool: lends the buffers of a cache that keeps its size; None lets it grow.
        size: slots of such a cache, which its layers move to once they have read the prompt.

    `place` or `place_prompt` says where the next forward's keys go.
    """

    def __init__(self, pool: BufferPool | None = None, size: int = 0):
        super().__init__(layer_class_to_replicate=DraftLayer)
        self.pool = pool
        self.size = size
        self.placement: PromptPlacement | SlotPlacement | None = None
        self._turned_version = None  # of the slot map that the sinks were last turned for
        self._rolling = torch.zeros(1, dtype=torch.bool)  # [B] rows whose sinks were turned

    def place(self, slots: torch.Tensor, length: int) -> None:
        """Announce keys for `slots` [B, n], read by an attention over the first `length` slots."""
        self.placement = SlotPlacement(slots, length)
        if self.pool is None:
            return
        for layer in self.layers:
            layer.settle(self.pool, self.size)

    def place_prompt(self, kept: torch.Tensor) -> None:
        """Announce a prompt's keys, of which the numbers `kept` [B, C] stay.

        Attention over the prompt itself reads them all.
        """
        self.placement = PromptPlacement(kept)

    def update(self, key_states, value_states, layer_idx=0, *args, **kwargs):
        """Store keys and values [B, g, n, D]; returns those that attention reads."""
        layer = self.with_layers(layer_idx + 1)[layer_idx]
        placement = self.placement
        if isinstance(placement, PromptPlacement):
            layer.keep(key_states, value_states, placement.kept)
            return key_states, value_states
        return layer.write(placement.slots, key_states, value_states, placement.length)

    def extend_to(self, length: int) -> list[torch.Tensor]:
        """Have room for `length` slots, for a forward that writes the new ones by itself.

        Returns:
            The buffers [B, g, T, D] of all layers, keys and values in turn.
        """
        return room_in(self.layers, length)

    def turn_sinks(self, slots: SlotMap, rotary) -> None:
        """Once a round, turn the sinks of a rolling window to stand right before the window.

        Args:
            slots: the map of this cache's slots.
            rotary: the model's rotary embedding, called with (tensor, positions [B, n]).
        """
        if slots.window is None or self._turned_version == slots.version:
            return
        self._turned_version = slots.version
        shift = slots.shift  # [B]
        if shift is None:
            return
        keys = self.layers[0].keys
        anchor = keys.new_empty(0, dtype=torch.promote_types(keys.dtype, torch.float32))
        cos, sin = rotary(anchor, shift[:, None])  # [B, 1, D]
        cos = cos / rotary.attention_scaling
        sin = sin / rotary.attention_scaling
        for layer in self.layers:
            layer.turn_sinks(slots.window.sinks, ~self._rolling, cos, sin)
        self._rolling = shift > 0

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Drop all rows except `indices`."""
        super().batch_select_indices(indices)
        if len(self._rolling) > 1:
            self._rolling = self._rolling[indices]

    def with_layers(self, count: int) -> list["DraftLayer"]:
        """The layers, made where there are fewer than `count`."""
        while len(self.layers) < count:
            self.layers.append(DraftLayer())
        return self.layers


class DraftLayer(DynamicLayer):
    """One layer of a `DraftCache`: keys and values [B, g, T, D]."""

    def __init__(self):
        super().__init__()
        self._unturned_sinks: torch.Tensor | None = None  # [B, g, sinks, D] as they were written
        self._is_settled = False

    def settle(self, pool: BufferPool, size: int) -> None:
        """Move, once, to buffers of `size` slots, which hold all that will be written."""
        if self._is_settled:
            return
        self._is_settled = True
        self.keys = _moved(self.keys, pool, size)
        self.values = _moved(self.values, pool, size)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Drop all rows except `indices`."""
        indices = indices.to(self.keys.device)
        self.keys = self.keys[indices]
        self.values = self.values[indices]
        if self._unturned_sinks is not None:
            self._unturned_sinks = self._unturned_sinks[indices]

    def keep(self, keys: torch.Tensor, values: torch.Tensor, kept: torch.Tensor) -> None:
        """Hold the numbers `kept` [B, C], or [B, g, C], of a prompt's keys and values."""
        kept = kept.to(keys.device)
        if kept.dim() == 2:
            kept = kept[:, None].expand(-1, keys.shape[1], -1)
        index = kept[..., None]  # [B, g, C, 1]
        self.keys = keys.gather(2, index.expand(-1, -1, -1, keys.shape[-1]))
        self.values = values.gather(2, index.expand(-1, -1, -1, values.shape[-1]))
        self.is_initialized = True

    def write(
        self, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put keys, values [B, g, n, D] at `slots` [B, n]; returns the first `length` slots."""
        if not self.is_initialized:
            self.keys = keys[:, :, :0].clone()
            self.values = values[:, :, :0].clone()
            self.is_initialized = True
        self.make_room(length)
        slots = slots.to(keys.device)
        rows = torch.arange(len(slots), device=keys.device)[:, None]
        self.keys[rows, :, slots] = keys.transpose(1, 2)
        self.values[rows, :, slots] = values.transpose(1, 2)
        return self.keys[:, :, :length], self.values[:, :, :length]

    def make_room(self, slots: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Have `slots` slots; returns the whole buffers of keys and values."""
        self.keys = with_room(self.keys, slots)
        self.values = with_room(self.values, slots)
        return self.keys, self.values

    def turn_sinks(
        self, sinks: int, is_new: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> None:
        """Turn the first `sinks` keys on from where they were written.

        Args:
            sinks: how many keys.
            is_new: bool [B], the rows that were never turned before.
            cos, sin: [B, 1, D] of the angle to turn by.
        """
        written = self.keys[:, :, :sinks]
        if self._unturned_sinks is None:
            self._unturned_sinks = written.clone()
        else:
            is_new = is_new.to(written.device)[:, None, None, None]
            self._unturned_sinks = torch.where(is_new, written, self._unturned_sinks)
        cos = cos.to(written.device)
        sin = sin.to(written.device)
        turned = rotate_keys(self._unturned_sinks.to(cos.dtype), cos, sin)
        self.keys[:, :, :sinks] = turned.to(written.dtype)


def rotate_keys(keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Keys [B, g, n, D] turned by angles with cos, sin [B, n or 1, D], paired as Llama does."""
    return keys * cos[:, None] + rotate_half(keys) * sin[:, None]


def _moved(states: torch.Tensor, pool: BufferPool, size: int) -> torch.Tensor:
    """States [B, g, T, D] at the beginning of a buffer of `size` slots."""
    batch, heads, length, width = states.shape
    buffer = pool.zeros(states, batch, heads, size, width)
    buffer[:, :, :length] = states
    return buffer
