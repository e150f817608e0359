"""The limit of a round: the bytes of its weights, and how fast this machine reads.

At batch 1 a forward multiplies every weight once and keeps none for later, so it cannot be faster
than reading them from memory. Weights that stay in the processor's own caches are an exception: a
small draft head may be read faster than that.
"""

import statistics
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.measuring.timing import timed
from eagle_hf.target import unwrap
from eagle_hf.target.quantised import quantised_linears, tensor_parts

READ_BYTES = 2**29  # far more than the caches of most processors
READ_REPEATS = 9


@dataclass(frozen=True)
class ReadingLimit:
    """What a round reads, and how fast this machine reads.

    Attributes:
        target_bytes: weights of the target, read once a round.
        head_bytes: weights of the head that each of its forwards reads, its LM head included.
        fusion_bytes: weights of the head that are read once a round, for the target's states.
        draft_forwards: forwards of the head a round.
        bytes_per_second: at which this machine reads its memory.
    """

    target_bytes: int
    head_bytes: int
    fusion_bytes: int
    draft_forwards: float
    bytes_per_second: float

    @property
    def round_bytes(self) -> float:
        """Bytes that a round reads."""
        return self.target_bytes + self.fusion_bytes + self.draft_forwards * self.head_bytes

    @property
    def seconds(self) -> float:
        """How long this machine takes to read them."""
        return self.round_bytes / self.bytes_per_second


def reading_limit(
    target: Any, head: Eagle3DraftHead | None, draft_forwards: float, device: torch.device
) -> ReadingLimit:
    """The limit of rounds on this machine, whose reading speed is measured here.

    All experts of a mixture count, though a round reads some of them.

    Args:
        target: the model that verifies.
        head: the draft head; None for plain decoding.
        draft_forwards: of the head, in a round.
        device: where they compute.

    Returns:
        The limit.
    """
    fusion_bytes = 0
    head_bytes = 0
    if head is not None:
        fusion_bytes = stored_bytes(head.fc)
        head_bytes = stored_bytes(head) - fusion_bytes
    return ReadingLimit(
        target_bytes=multiplied_bytes(unwrap(target)),
        head_bytes=head_bytes,
        fusion_bytes=fusion_bytes,
        draft_forwards=draft_forwards,
        bytes_per_second=reading_speed(device),
    )


def multiplied_bytes(model: Any) -> int:
    """Bytes of the weights that a causal LM's forward multiplies.

    Of an embedding table it looks up some rows, unless the table is the LM head too.
    """
    table = model.get_input_embeddings()
    lm_head = model.get_output_embeddings()
    is_tied = lm_head is not None and lm_head.weight is table.weight
    return stored_bytes(model) - (0 if is_tied else stored_bytes(table))


def stored_bytes(module: nn.Module) -> int:
    """Bytes of a module's weights as they are stored, each counted once."""
    tensors = list(module.parameters())
    for _, linear in quantised_linears(module):
        tensors += list(linear.buffers())
    total = 0
    for tensor in tensors:
        for part in tensor_parts(tensor):
            total += part.numel() * part.element_size()
    return total


@torch.no_grad()
def reading_speed(device: torch.device) -> float:
    """Bytes per second at which all threads read memory: the median of some sums."""
    numbers = torch.ones(READ_BYTES // 4, dtype=torch.float32, device=device)
    seconds = []
    for _ in range(READ_REPEATS):
        seconds.append(timed(numbers.sum, device))
    return READ_BYTES / statistics.median(seconds[1:])
