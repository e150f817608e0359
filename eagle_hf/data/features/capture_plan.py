"""What is captured together, and into which shard it goes: settled before the target runs.

The plan depends on nothing but the examples and the settings. Conversations go from the longest to
the shortest, so that a batch too large for memory fails at once. Batches hold at most
`batch_tokens` with their padding, and shards hold whole batches.

So all sizes are known before the first byte is written. And an interrupted run that goes on after
its last finished shard writes what it would have written.
"""

import hashlib
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from eagle_hf.data.features.shards import Layout
from eagle_hf.data.rows import Example, SkippedRow, TokenValues, check_tokenised

KEY_DIGITS = 32  # of a SHA-256: no two texts share them by chance


class PlannedConversation(NamedTuple):
    """An example that is to be captured.

    Attributes:
        number: among the examples.
        id: of the conversation.
        length: in tokens.
        tokens_key: the same for all examples of the same tokens, see `key_of_tokens`.
    """

    number: int
    id: str
    length: int
    tokens_key: str


class ShardPlan(NamedTuple):
    """A shard that is to be written: its batches, and its size in bytes with the header."""

    name: str
    batches: list[list[PlannedConversation]]
    nbytes: int

    @property
    def conversations(self) -> list[PlannedConversation]:
        return list(chain.from_iterable(self.batches))

    @property
    def tokens(self) -> int:
        return sum(conversation.length for conversation in self.conversations)


def scan_examples(
    examples: Sequence[Example], vocab_size: int
) -> tuple[list[PlannedConversation], str]:
    """Read every example once, and refuse the first one that cannot be captured.

    Args:
        examples: a list, or a `datasets.Dataset`.
        vocab_size: of the target.

    Returns:
        The conversations in their order, and a SHA-256 of their ids, tokens and masks.

    Raises:
        ValueError: an example without tokens, with a mask of another length or with unknown
            tokens or with images; or no example at all.
    """
    conversations = []
    digest = hashlib.sha256()
    for number in range(len(examples)):
        example = examples[number]
        check_tokenised(example, number)
        name = str(example.get("id") or f"row-{number}")
        ids = _to_array(example.get("input_ids"))
        mask = _to_array(example.get("loss_mask"))
        if len(ids) == 0 or len(ids) != len(mask):
            raise ValueError(
                f"conversation {name!r} has {len(ids)} input_ids and {len(mask)} loss_mask "
                "values; at least one and equally many are needed: pass what "
                "tokenize_conversations returns"
            )
        if example.get("image_inputs") is not None:
            raise ValueError(
                f"conversation {name!r} holds images, which cannot be captured to disk yet; give "
                "the conversations themselves to Eagle3Trainer, whose target then reads the images"
            )
        if ids.min() < 0 or ids.max() >= vocab_size:
            raise ValueError(
                f"conversation {name!r} holds tokens from {ids.min()} to {ids.max()}, the target "
                f"knows 0 to {vocab_size - 1}; use the target's own tokenizer"
            )
        conversations.append(PlannedConversation(number, name, len(ids), key_of_tokens(ids)))
        # With their lengths, so that no two lists of examples run into the same bytes.
        digest.update(repr((name, len(ids))).encode())
        digest.update(ids.tobytes())
        digest.update(mask.astype(bool).tobytes())
    if not conversations:
        raise ValueError(
            "there are no conversations to capture; get examples from tokenize_conversations"
        )
    return conversations, digest.hexdigest()


def key_of_tokens(ids: np.ndarray) -> str:
    """What the files of an engine are found by: 32 hexadecimal digits of the tokens' SHA-256.

    Args:
        ids: int64, shape [S].
    """
    return hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()[:KEY_DIGITS]


def digest_without(digest: str, left_out: Sequence[SkippedRow]) -> str:
    """The digest of `scan_examples` for the conversations that remain.

    Args:
        digest: of all conversations.
        left_out: those that are not captured.
    """
    if not left_out:
        return digest
    names = [row.id for row in left_out]
    return hashlib.sha256(repr((digest, names)).encode()).hexdigest()


def _to_array(values: TokenValues | None) -> np.ndarray:
    return np.asarray([] if values is None else values, dtype=np.int64)


def plan_shards(
    conversations: list[PlannedConversation], layout: Layout, batch_tokens: int, shard_bytes: int
) -> list[ShardPlan]:
    """Plan batches and shards.

    Args:
        conversations: in any order.
        layout: of the shards.
        batch_tokens: most tokens of a batch, padding included; a longer conversation has a batch
            of its own.
        shard_bytes: most bytes of conversations in a shard; a larger batch has a shard of its own.

    Returns:
        The shards, the longest conversations first.
    """
    # Shards of batches of conversations; the last one is being filled.
    shards: list[list[list[PlannedConversation]]] = [[]]
    filled = 0
    for batch in _plan_batches(conversations, batch_tokens):
        size = sum(layout.count_bytes(conversation.length).total for conversation in batch)
        is_full = shards[-1] and filled + size > shard_bytes
        if is_full:
            shards.append([])
            filled = 0
        shards[-1].append(batch)
        filled += size
    return [_plan_shard(number, batches, layout) for number, batches in enumerate(shards)]


def _plan_batches(
    conversations: list[PlannedConversation], batch_tokens: int
) -> list[list[PlannedConversation]]:
    """Batches of conversations of similar lengths, the longest first."""
    ordered = sorted(conversations, key=_longest_first)
    batches = []
    start = 0
    while start < len(ordered):
        # The first conversation is the longest, so all others are padded to its length.
        count = max(1, batch_tokens // ordered[start].length)
        batches.append(ordered[start : start + count])
        start += count
    return batches


def _longest_first(conversation: PlannedConversation) -> tuple[int, int]:
    return -conversation.length, conversation.number


def _plan_shard(number: int, batches: list[list[PlannedConversation]], layout: Layout) -> ShardPlan:
    """A shard of these batches, with its name and size."""
    lengths = [conversation.length for conversation in chain.from_iterable(batches)]
    size = len(layout.make_header(lengths))
    for length in lengths:
        size += layout.count_bytes(length).total
    return ShardPlan(f"features-{number:05d}.safetensors", batches, size)
