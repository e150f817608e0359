"""Rows that hold several conversations, one after another.

S slots of a row.
"""

from collections.abc import Sequence

import torch


def conversation_lengths(position_ids: torch.Tensor) -> list[int]:
    """Return the tokens of each conversation of a packed row.

    Args:
        position_ids: Positions [1, S] that start from 0 with every conversation.

    Raises:
        ValueError: There are several rows, or the row does not start at position 0.
    """
    if position_ids.shape[0] != 1 or position_ids[0, 0] != 0:
        raise ValueError(
            f"position_ids of shape {list(position_ids.shape)} starting at "
            f"{int(position_ids[0, 0])} arrived; conversations are "
            "packed into one row [1, S] that starts at position 0"
        )
    starts = (position_ids[0] == 0).nonzero()[:, 0].tolist()
    ends = [*starts[1:], position_ids.shape[1]]
    return [end - start for start, end in zip(starts, ends, strict=True)]


def conversation_numbers(lengths: Sequence[int], device: torch.device | str) -> torch.Tensor:
    """Number the conversations of a row.

    Args:
        lengths: Tokens of each conversation; they add up to S.
        device: Where the result is.

    Returns:
        Which conversation each slot belongs to [S].
    """
    numbers = torch.arange(len(lengths), device=device)
    return numbers.repeat_interleave(torch.tensor(lengths, device=device))
