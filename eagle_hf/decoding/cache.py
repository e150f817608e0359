"""Caches that take a tree and keep one branch.

B batch, T slots in use, N nodes, D head width. Every row's committed keys are contiguous; a tree is appended behind
the longest row, so shorter rows have unused slots in between, which masks hide until the next commit fills them.
"""

from functools import partial

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.models.llama.modeling_llama import rotate_half

from eagle_hf.decoding.compiling import Buffers
from eagle_hf.decoding.upload import upload

SLACK = 128  # slots beyond the prompt: room for the first rounds


def _grown(buffer: torch.Tensor, slots: int, limit: int | None = None) -> torch.Tensor:
    """The buffer [B, h, T, D] with room for at least `slots`, doubling so that appending stays linear, but not beyond `limit` without need."""
    if slots <= buffer.shape[2]:
        return buffer
    batch, heads, capacity, width = buffer.shape
    room = max(slots + SLACK, 2 * capacity)
    room = room if limit is None else max(slots, min(room, limit))
    bigger = buffer.new_zeros(batch, heads, room, width)  # zeros: unused slots are read, masked
    bigger[:, :, :capacity] = buffer
    return bigger


class TreeLayer(DynamicLayer):
    """One layer's keys and values in place: appending copies the new slots only, not the prefix.

    capacity: slots to begin with, lent by `buffers` if given; limit: the most it will be asked for, if known. Once `place` [N] is
    set, new keys go to those slots and attention is given all the layer has: tensors of the same sizes every round.
    """

    def __init__(self, capacity: int = 0, limit: int | None = None, buffers: Buffers | None = None):
        super().__init__()
        self.capacity, self.limit, self.place = capacity, limit, None
        self._zeros = buffers.zeros if buffers else torch.Tensor.new_zeros

    def lazy_initialization(self, key_states, value_states=None):
        super().lazy_initialization(key_states, value_states)
        self.length = 0
        self._keys, self._values = (
            self._zeros(part, *part.shape[:2], self.capacity, part.shape[-1])
            for part in (key_states, value_states)
        )

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.place is not None:
            self._keys.index_copy_(2, self.place, key_states)
            self._values.index_copy_(2, self.place, value_states)
            return self._keys, self._values
        start, end = self.length, self.length + key_states.shape[2]
        self._keys, self._values = (
            _grown(part, end, self.limit) for part in (self._keys, self._values)
        )
        self._keys[:, :, start:end] = key_states
        self._values[:, :, start:end] = value_states
        self.set_length(end)
        return self.keys, self.values

    def set_length(self, length: int) -> None:
        """Let the first `length` slots be the ones in use."""
        self.length = length
        self.keys, self.values = self._keys[:, :, :length], self._values[:, :, :length]

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the newest slots, a negative number of them as in `Cache.crop`."""
        assert tokens_to_remove <= 0, (
            f"crop takes off a negative number of slots, not {tokens_to_remove}"
        )
        self.set_length(self.length + tokens_to_remove)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Let only these rows stay."""
        self._keys, self._values = (
            part[indices.to(part.device)] for part in (self._keys, self._values)
        )
        self.set_length(self.length)

    def move(self, rows: torch.Tensor, sources: torch.Tensor, targets: torch.Tensor) -> None:
        """Copy slot sources[b, m] of row b to its slot targets[b, m]; rows is [B, 1], the others [B, M]."""
        for buffer in (self._keys, self._values):
            places = [
                index.to(buffer.device) for index in (rows, sources, targets)
            ]  # layers may live on several devices
            buffer[places[0], :, places[2]] = buffer[places[0], :, places[1]]


class TreeCache(Cache):
    """The target's cache of one run: a `TreeLayer` for every layer, of `capacity` slots from the start and for good, or growing to `limit`."""

    def __init__(
        self, capacity: int | None = None, limit: int | None = None, buffers: Buffers | None = None
    ):
        super().__init__(layer_class_to_replicate=partial(TreeLayer, capacity or 0, limit, buffers))
        self.capacity, self.buffers = capacity, buffers

    def place(self, base: int, nodes: int) -> None:
        """The next keys are a tree's, in the slots from `base` on; nothing to do for a cache that grows."""
        if self.capacity is None:
            return
        assert base + nodes <= self.capacity, (
            f"a tree of {nodes} nodes at slot {base} of a cache of {self.capacity}"
        )
        slots = torch.arange(base, base + nodes, device=self.layers[0]._keys.device)
        for layer in self.layers:
            layer.place = slots.to(layer._keys.device)
            layer.set_length(base + nodes)

    def commit(self, base: int, ends: list[int], paths: list[list[int]]) -> None:
        """Keep one branch per row of the tree that occupies the slots from `base` on, and drop the rest.

        ends[b]: slots row b had committed; paths[b]: the nodes it keeps, root first (empty for a row that stands
        still). Row b then has ends[b] + len(paths[b]) committed slots.
        """
        width = max(len(path) for path in paths)
        last = (
            self.get_seq_length() - 1
        )  # a slot no kept node moves to while a shorter path needs filling up
        sources = [[base + node for node in path] + [last] * (width - len(path)) for path in paths]
        targets = [
            [end + step for step in range(len(path))] + [last] * (width - len(path))
            for end, path in zip(ends, paths)
        ]
        device = self.layers[0]._keys.device
        length = max(end + len(path) for end, path in zip(ends, paths))
        if sources != targets:
            rows = torch.arange(len(paths), device=device)[:, None]
            sources, targets = upload(sources, device), upload(targets, device)
        for layer in self.layers:
            if isinstance(sources, torch.Tensor):
                layer.move(rows, sources, targets)
            layer.set_length(length)

    def keep_rows(self, index: torch.Tensor, length: int) -> None:
        """Let only these rows stay, none of which has committed more than `length` slots."""
        self.batch_select_indices(index)
        for layer in self.layers:
            layer.set_length(length)

    def plain(self) -> DynamicCache:
        """What is committed, as the cache that plain generate returns."""
        cache = DynamicCache()
        for index, layer in enumerate(self.layers):
            cache.update(layer.keys.clone(), layer.values.clone(), index)
        return cache


class DraftCache(Cache):
    """What a drafter has read, in slots that a `SlotMap` gives out: [B, groups, T, D] a layer.

    `place` says where the next forward's keys go. Tree nodes are written behind the committed slots and overwritten later.
    """

    def __init__(self):
        super().__init__(layer_class_to_replicate=SlotLayer)
        self._slots = self._length = self._kept = None
        self._turned = None  # the lengths that the sinks were last turned for
        self._rolling = torch.zeros(1, dtype=torch.bool)  # [B]: rows whose sinks were turned
        self.fixed = None  # (Buffers, slots) that its layers move to once they have read the prompt, and stay in

    def place(self, slots: torch.Tensor, length: int) -> None:
        """The next keys go to `slots` [B, n]; attention then reads the first `length` slots."""
        self._slots, self._length, self._kept = slots, length, None
        for layer in self.layers if self.fixed else []:
            layer.settle(*self.fixed)

    def place_prompt(self, kept: torch.Tensor) -> None:
        """The next keys are a prompt's; slot c of row b keeps number kept[b, c] of them. Attention reads them all, once."""
        self._kept = kept

    def update(self, key_states, value_states, layer_idx=0, *args, **kwargs):
        layer = self.with_layers(layer_idx + 1)[layer_idx]
        if self._kept is None:
            return layer.write(self._slots, key_states, value_states, self._length)
        layer.keep(key_states, value_states, self._kept)
        return key_states, value_states

    def turn_sinks(self, slots, rotary) -> None:
        """Once a round: let the sinks of a rolling `SlotMap` stand right before the window, by a model's rotary embedding."""
        if slots.window is None or self._turned is slots.lengths:
            return
        shift, self._turned = slots.shift, slots.lengths
        if shift is None:
            return
        keys = self.layers[0].keys
        anchor = keys.new_empty(0, dtype=torch.promote_types(keys.dtype, torch.float32))
        cos, sin = (part / rotary.attention_scaling for part in rotary(anchor, shift[:, None]))
        for layer in self.layers:
            layer.turn(slots.window.sinks, ~self._rolling, cos, sin)
        self._rolling = shift > 0

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Let only these rows stay."""
        super().batch_select_indices(indices)
        if len(self._rolling) > 1:
            self._rolling = self._rolling[indices]

    def with_layers(self, count: int) -> list["SlotLayer"]:
        """The layers, `count` of them at least."""
        self.layers += [SlotLayer() for _ in range(count - len(self.layers))]
        return self.layers


def rotated(keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Keys [B, g, n, D] turned by angles with these cos, sin [B, n or 1, D], as Llama pairs them."""
    return keys * cos[:, None] + rotate_half(keys) * sin[:, None]


class SlotLayer(DynamicLayer):
    """One layer of a `DraftCache`."""

    _sinks = None  # keys [B, groups, sinks, D] as they were written, once a row's window rolls
    _settled = False

    def settle(self, buffers: Buffers, slots: int) -> None:
        """Move, once, to buffers of so many slots, which hold whatever will be written."""
        if self._settled:
            return
        self._settled, parts = True, (self.keys, self.values)
        self.keys, self.values = (
            buffers.zeros(part, *part.shape[:2], slots, part.shape[-1]) for part in parts
        )
        for buffer, part in zip((self.keys, self.values), parts):
            buffer[:, :, : part.shape[2]] = part

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Let only these rows stay."""
        indices = indices.to(self.keys.device)
        self.keys, self.values = self.keys[indices], self.values[indices]
        self._sinks = None if self._sinks is None else self._sinks[indices]

    def keep(self, keys: torch.Tensor, values: torch.Tensor, kept: torch.Tensor) -> None:
        """Hold the numbers `kept` [B, C], or [B, groups, C], of a prompt's keys and values."""
        kept = kept.to(keys.device)
        index = (kept if kept.dim() == 3 else kept[:, None].expand(-1, keys.shape[1], -1))[
            ..., None
        ]
        self.keys, self.values = (
            part.gather(2, index.expand(-1, -1, -1, part.shape[-1])) for part in (keys, values)
        )
        self.is_initialized = True

    def write(self, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, length: int):
        """Put keys, values [B, groups, n, D] at `slots` [B, n]; returns the first `length` slots of both."""
        if not self.is_initialized:
            self.keys, self.values = (
                part.new_zeros(*part.shape[:2], 0, part.shape[3]) for part in (keys, values)
            )
            self.is_initialized = True
        self.keys, self.values = _grown(self.keys, length), _grown(self.values, length)
        slots = slots.to(keys.device)
        rows = torch.arange(len(slots), device=keys.device)[:, None]
        self.keys[rows, :, slots] = keys.transpose(1, 2)
        self.values[rows, :, slots] = values.transpose(1, 2)
        return self.keys[:, :, :length], self.values[:, :, :length]

    def turn(self, sinks: int, fresh: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """Turn the first `sinks` keys on from where they were written; rows that are `fresh` (bool [B]) never were turned."""
        written = self.keys[:, :, :sinks]
        self._sinks = (
            written.clone()
            if self._sinks is None
            else torch.where(fresh.to(written.device)[:, None, None, None], written, self._sinks)
        )
        cos, sin = cos.to(written.device), sin.to(written.device)
        self.keys[:, :, :sinks] = rotated(self._sinks.to(cos.dtype), cos, sin).to(written.dtype)
