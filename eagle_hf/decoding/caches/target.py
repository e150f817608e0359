"""The target's cache: it takes a tree and keeps one branch.

B batch, h key heads, T slots in use, N nodes, D head width. The committed keys of every row are
contiguous. A tree is appended behind the longest row, so a shorter row has unused slots in between,
which masks hide until the next commit fills them. A commit of the branch 0 -> 2 -> 3 of a tree at
base slot 5, for a row that had committed 4 slots (its slot 4 is unused):

    slot      0  1  2  3  4  5  6  7  8          0  1  2  3  4  5  6
    before    a  b  c  d  .  n0 n1 n2 n3  after  a  b  c  d  n0 n2 n3
"""

from collections.abc import Sequence
from functools import partial

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from eagle_hf.compilation.forwards import BufferShape
from eagle_hf.decoding.caches.buffers import BufferPool, room_in, with_room
from eagle_hf.decoding.upload import upload


class TargetLayer(DynamicLayer):
    """One layer's keys and values in place: an update copies the new slots, not the prefix.

    Args:
        capacity: slots to begin with.
        limit: the most slots it will be asked for, if known.
        pool: lends the buffers of a layer that keeps its size.

    Once `slots` [N] is set, new keys go to these slots and attention is given the whole buffers:
    tensors of the same sizes in every round.
    """

    def __init__(self, capacity: int = 0, limit: int | None = None, pool: BufferPool | None = None):
        super().__init__()
        self.capacity = capacity
        self.limit = limit
        self.slots: torch.Tensor | None = None
        self._zeros = pool.zeros if pool else torch.Tensor.new_zeros

    def lazy_initialization(self, key_states, value_states):
        super().lazy_initialization(key_states, value_states)
        self.length = 0
        self._keys = self._empty(key_states)
        self._values = self._empty(value_states)

    def _empty(self, states: torch.Tensor) -> torch.Tensor:
        """A buffer [B, h, capacity, D] for states [B, h, S, D]."""
        batch, heads, _, width = states.shape
        return self._zeros(states, batch, heads, self.capacity, width)

    def update(self, key_states, value_states, *args, **kwargs):
        """Append keys and values [B, h, n, D]; returns those that attention reads [B, h, T, D]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.slots is not None:
            self._keys.index_copy_(2, self.slots, key_states)
            self._values.index_copy_(2, self.slots, value_states)
            return self._keys, self._values
        start = self.length
        end = start + key_states.shape[2]
        self.make_room(end)
        self._keys[:, :, start:end] = key_states
        self._values[:, :, start:end] = value_states
        return self.keys, self.values

    def make_room(self, slots: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Have `slots` slots in use; returns the whole buffers of keys and values."""
        self._keys = with_room(self._keys, slots, self.limit)
        self._values = with_room(self._values, slots, self.limit)
        self.set_length(slots)
        return self._keys, self._values

    def set_length(self, length: int) -> None:
        """Use the first `length` slots."""
        self.length = length
        self.keys = self._keys[:, :, :length]
        self.values = self._values[:, :, :length]

    def crop(self, tokens_to_remove: int) -> None:
        """Drop the newest slots; their number is negative, as in `Cache.crop`."""
        assert tokens_to_remove <= 0, f"crop takes off a negative number, not {tokens_to_remove}"
        self.set_length(self.length + tokens_to_remove)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Drop all rows except `indices`."""
        indices = indices.to(self._keys.device)
        self._keys = self._keys[indices]
        self._values = self._values[indices]
        self.set_length(self.length)

    def move(self, rows: torch.Tensor, sources: torch.Tensor, targets: torch.Tensor) -> None:
        """Copy slot sources[b, m] of row b to its slot targets[b, m].

        rows [B, 1]; sources, targets [B, M].
        """
        device = self._keys.device  # layers may lie on several devices
        rows = rows.to(device)
        sources = sources.to(device)
        targets = targets.to(device)
        for buffer in (self._keys, self._values):
            buffer[rows, :, targets] = buffer[rows, :, sources]


class TargetCache(Cache):
    """The target's cache of one run, a `TargetLayer` per layer.

    Args:
        capacity: slots from the start on, for a cache that keeps its size; None lets it grow.
        limit: the most slots a growing cache will be asked for, if known.
        pool: lends the buffers of a cache that keeps its size.
    """

    def __init__(
        self,
        capacity: int | None = None,
        limit: int | None = None,
        pool: BufferPool | None = None,
    ):
        layer = partial(TargetLayer, capacity or 0, limit, pool)
        super().__init__(layer_class_to_replicate=layer)
        self.capacity = capacity
        self.pool = pool

    def allocate(self, rows: int, shapes: Sequence[BufferShape]) -> None:
        """Make the layers of an empty cache, for a forward that only writes to their buffers.

        Args:
            rows: B.
            shapes: of keys and values of every layer in turn.
        """
        states = []
        for heads, width, dtype in shapes:
            states.append(torch.empty(rows, heads, 0, width, dtype=dtype))
        for index, (keys, values) in enumerate(zip(states[::2], states[1::2], strict=True)):
            self.update(keys, values, index)

    def place(self, base: int, nodes: int) -> None:
        """Announce that the next keys are a tree's, for the slots from `base` on.

        For a cache that keeps its size; a growing one appends whatever comes.
        """
        assert self.capacity is not None, "a growing cache places nothing"
        end = base + nodes
        assert end <= self.capacity, f"{nodes} nodes at slot {base} of {self.capacity}"
        slots = torch.arange(base, end, device=self.layers[0]._keys.device)
        for layer in self.layers:
            layer.slots = slots.to(layer._keys.device)
            layer.set_length(end)

    def extend_to(self, slots: int) -> list[torch.Tensor]:
        """Have `slots` slots in use, for a forward that writes the new ones by itself.

        Returns:
            The buffers [B, h, T, D] of all layers, keys and values in turn.
        """
        return room_in(self.layers, slots)

    def commit(self, base: int, ends: list[int], paths: list[list[int]]) -> None:
        """Keep one branch per row of the tree in the slots from `base` on, and drop the rest.

        Args:
            base: the tree's first slot.
            ends: slots that each row had committed.
            paths: nodes that each row keeps, root first; empty for a row that stands still.

        Row b then has ends[b] + len(paths[b]) committed slots.
        """
        moves = self._moves(base, ends, paths)
        committed = [end + len(path) for end, path in zip(ends, paths, strict=True)]
        for layer in self.layers:
            if moves is not None:
                layer.move(*moves)
            layer.set_length(max(committed))

    def _moves(
        self, base: int, ends: list[int], paths: list[list[int]]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        """The copies of a commit: rows [B, 1], sources [B, M] and targets [B, M].

        None where everything lies in place.
        """
        width = max(len(path) for path in paths)
        unused = self.get_seq_length() - 1  # no kept node moves here while a path needs filling up
        sources = []
        targets = []
        for end, path in zip(ends, paths, strict=True):
            filler = [unused] * (width - len(path))
            sources.append([base + node for node in path] + filler)
            targets.append(list(range(end, end + len(path))) + filler)
        if sources == targets:
            return None
        device = self.layers[0]._keys.device
        rows = torch.arange(len(paths), device=device)[:, None]
        return rows, upload(sources, device), upload(targets, device)

    def keep_rows(self, index: torch.Tensor, length: int) -> None:
        """Drop all rows except `index`; none of those has committed more than `length` slots."""
        self.batch_select_indices(index)
        for layer in self.layers:
            layer.set_length(length)

    def copy_to(self, cache: Cache, rows: torch.Tensor | None = None) -> Cache:
        """Write the slots in use into an empty cache; returns that cache.

        Args:
            cache: the empty one.
            rows: the row [R] of this cache that each of its rows gets; None for all, in order.
        """
        for index, layer in enumerate(self.layers):
            keys = layer.keys
            values = layer.values
            if rows is not None:
                keys = keys[rows.to(keys.device)]
                values = values[rows.to(values.device)]
            cache.update(keys, values, index)
        return cache

    def plain(self) -> DynamicCache:
        """What is committed, as the cache that plain generate returns."""
        cache = DynamicCache()
        for index, layer in enumerate(self.layers):
            cache.update(layer.keys.clone(), layer.values.clone(), index)
        return cache

    def release(self) -> None:
        """Hand borrowed buffers back; nothing reads this cache any more."""
        if self.pool is not None:
            self.pool.release()
