"""Is one output the other? And if not: was it a tie that arithmetic may break either way, or an error?

A tree is read in other matrix shapes than a single token, so float32 logits differ in the last bits. A difference
counts as an error unless the plain run itself stood within `TIE` of choosing otherwise.
"""

from dataclasses import dataclass

import torch

TIE = 1e-4  # SmolLM2 in float32: noise between tree and single-token logits is at most 4e-5


@dataclass(frozen=True)
class Difference:
    """The first token where two outputs of one prompt part, and the plain run's top-2 gap there."""

    position: int
    gap: float

    @property
    def is_tie(self) -> bool:
        return self.gap < TIE


def first_difference(target, plain: torch.Tensor, other: torch.Tensor, margin=None) -> Difference | None:
    """Where two outputs [1, L] part, None where they are equal. `margin(logits [V], position)` is the plain run's
    lead of its choice over the runner-up; by default the gap of the two highest logits (greedy decoding).
    """
    shorter = min(plain.shape[1], other.shape[1])
    parted = (plain[0, :shorter] != other[0, :shorter]).nonzero()
    if len(parted) == 0 and plain.shape == other.shape:
        return None
    position = int(parted[0]) if len(parted) else shorter
    with torch.no_grad():
        logits = target(plain[:, :position]).logits[0, -1].float()
    gap = float(logits.topk(2).values.diff().abs()) if margin is None else margin(logits, position)
    return Difference(position, gap)
