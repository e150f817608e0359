"""The draft vocabulary: the U target tokens that a head can propose.

U draft vocabulary, V target vocabulary. `d2t` [U] int64 holds *offsets*, `t2d` [V] bool marks the
covered target ids, in memory exactly as on disk. Nothing else computes with offsets.

    draft id       0  1  2
    target id      1  3  6
    d2t            1  2  4        target id = draft id + d2t[draft id]
    t2d            F  T  F  T  F  F  T
"""

import torch


def draft_to_target_ids(d2t: torch.Tensor) -> torch.Tensor:
    """Return the absolute target ids [U] of the stored offsets [U]."""
    return torch.arange(len(d2t), device=d2t.device) + d2t  # [U]


def vocabulary_buffers(
    target_ids: torch.Tensor, vocab_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Make the two buffers of a draft vocabulary.

    Args:
        target_ids: The target ids [U] that it covers, ascending.
        vocab_size: Tokens of the target's vocabulary, V.

    Returns:
        (d2t [U] int64, t2d [V] bool).

    Raises:
        ValueError: An id is none of the target's, or they do not ascend.
    """
    if len(target_ids) and (target_ids.min() < 0 or target_ids.max() >= vocab_size):
        raise ValueError(
            f"draft vocabulary ids span {int(target_ids.min())}..{int(target_ids.max())} but the "
            f"target has ids 0..{vocab_size - 1}; build the vocabulary with the target's own "
            "tokenizer"
        )
    if (target_ids[1:] <= target_ids[:-1]).any():
        raise ValueError(
            "draft vocabulary ids must be strictly ascending; sort them and drop duplicates"
        )
    d2t = target_ids - torch.arange(len(target_ids), device=target_ids.device)  # [U]
    t2d = torch.zeros(vocab_size, dtype=torch.bool, device=target_ids.device)  # [V]
    t2d[target_ids] = True
    return d2t, t2d


def choose_draft_vocabulary(
    counts: torch.Tensor, size: int, fill_by_rank: bool = False
) -> torch.Tensor:
    """Choose the most frequent tokens.

    Args:
        counts: How often each target token occurs [V].
        size: How many to choose.
        fill_by_rank: Where fewer than `size` tokens occur, add others in the order of their ids
            instead of raising. In a BPE vocabulary this is the order of their merges, so the more
            general tokens come first.

    Returns:
        Their target ids [size], ascending.

    Raises:
        ValueError: There are fewer tokens than `size`.
    """
    occurring = int((counts > 0).sum())
    if size > len(counts):
        raise ValueError(
            f"draft_vocab_size is {size} but the target's vocabulary has {len(counts)} tokens; "
            "lower it"
        )
    if size > occurring and not fill_by_rank:
        raise ValueError(
            f"draft_vocab_size is {size} but the responses hold {occurring} distinct tokens; "
            "lower it, add text, or fill the rest by rank (fill_by_rank=True)"
        )
    # a stable sort leaves tokens that do not occur in the order of their ids
    order = torch.argsort(counts, descending=True, stable=True)
    return order[:size].sort().values


def coverage(counts: torch.Tensor, target_ids: torch.Tensor) -> float:
    """Return the share of the counted tokens that a draft vocabulary can propose.

    Args:
        counts: How often each target token occurs [V].
        target_ids: The draft vocabulary's target ids [U].

    Raises:
        ValueError: Nothing was counted.
    """
    total = counts.sum().item()
    if total == 0:
        raise ValueError("no response tokens were counted; coverage of an empty text is undefined")
    return counts[target_ids].sum().item() / total
