"""Which conversations are captured together, and which shard they go to: settled before the target runs.

The plan depends on nothing but the examples and the settings: conversations from the longest to the shortest (so that a
batch too large for memory fails at once), batches of at most `batch_tokens` with their padding, shards of whole batches.
So all sizes are known before the first byte, and an interrupted run that goes on after its last finished shard
writes what it would have written.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from eagle_hf.data.shards import Layout


class Row(NamedTuple):
    """An example: its place among them, its id, its length in tokens."""

    row: int
    id: str
    length: int


class ShardPlan(NamedTuple):
    """A shard to be: its batches, and all its bytes with the header."""

    name: str
    batches: list[list[Row]]
    bytes: int

    @property
    def rows(self) -> list[Row]:
        return [row for batch in self.batches for row in batch]


def scan_examples(examples: Sequence[Mapping], vocab_size: int) -> tuple[list[Row], str]:
    """The rows of all examples, and a fingerprint of their ids, tokens and masks; ValueError for the first unusable one."""
    rows, digest = [], hashlib.sha256()
    for number in range(len(examples)):
        example = examples[number]
        name = str(example.get("id") or f"row-{number}")
        ids, mask = (_array(example.get(key)) for key in ("input_ids", "loss_mask"))
        if not len(ids) or len(ids) != len(mask):
            raise ValueError(
                f"conversation {name!r} has {len(ids)} input_ids and {len(mask)} loss_mask values; at least one and equally "
                "many are needed: pass what tokenize_conversations returns"
            )
        if ids.min() < 0 or ids.max() >= vocab_size:
            raise ValueError(
                f"conversation {name!r} holds tokens from {ids.min()} to {ids.max()}, the target knows 0 to {vocab_size - 1}; "
                "use the target's own tokenizer"
            )
        rows.append(Row(number, name, len(ids)))
        digest.update(repr((name, len(ids))).encode() + ids.tobytes() + mask.astype(bool).tobytes())
    if not rows:
        raise ValueError(
            "there are no conversations to capture; get examples from tokenize_conversations"
        )
    return rows, digest.hexdigest()


def _array(values) -> np.ndarray:
    return np.asarray([] if values is None else values, dtype=np.int64)


def plan_shards(
    rows: list[Row], layout: Layout, batch_tokens: int, shard_bytes: int
) -> list[ShardPlan]:
    """Whole batches, longest first, in shards of at most `shard_bytes` of data where a single batch is not larger."""
    rows, start, parts, filled = sorted(rows, key=lambda row: (-row.length, row.row)), 0, [[]], 0
    while start < len(rows):
        batch = rows[start : start + max(1, batch_tokens // rows[start].length)]
        size = sum(sum(layout.sizes(row.length)) for row in batch)
        if parts[-1] and filled + size > shard_bytes:
            parts.append([])
            filled = 0
        parts[-1].append(batch)
        filled, start = filled + size, start + len(batch)
    return [_shard_plan(number, batches, layout) for number, batches in enumerate(parts)]


def _shard_plan(number: int, batches: list[list[Row]], layout: Layout) -> ShardPlan:
    lengths = [row.length for batch in batches for row in batch]
    size = len(layout.header(lengths)) + sum(sum(layout.sizes(length)) for length in lengths)
    return ShardPlan(f"features-{number:05d}.safetensors", batches, size)
