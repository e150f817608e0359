"""The draft vocabulary: the U target tokens a head can propose.

U draft vocabulary, V target vocabulary. `d2t` [U] int64 holds *offsets* (target id = draft id + d2t[draft id]),
`t2d` [V] bool marks the covered target ids: in memory exactly as on disk. Nothing else computes with offsets.
"""

import torch


def draft_to_target_ids(d2t: torch.Tensor) -> torch.Tensor:
    """Absolute target ids [U] from the stored offsets [U]."""
    return torch.arange(len(d2t), device=d2t.device) + d2t


def vocabulary_buffers(
    target_ids: torch.Tensor, vocab_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(d2t, t2d) for ascending target ids [U]."""
    if len(target_ids) and (target_ids.min() < 0 or target_ids.max() >= vocab_size):
        raise ValueError(
            f"draft vocabulary ids span {int(target_ids.min())}..{int(target_ids.max())} but the target has ids "
            f"0..{vocab_size - 1}; build the vocabulary with the target's own tokenizer"
        )
    if (target_ids[1:] <= target_ids[:-1]).any():
        raise ValueError(
            "draft vocabulary ids must be strictly ascending; sort them and drop duplicates"
        )
    d2t = target_ids - torch.arange(len(target_ids), device=target_ids.device)
    t2d = torch.zeros(vocab_size, dtype=torch.bool, device=target_ids.device)
    t2d[target_ids] = True
    return d2t, t2d


def choose_draft_vocabulary(
    counts: torch.Tensor, size: int, fill_by_rank: bool = False
) -> torch.Tensor:
    """The `size` most frequent target ids of `counts` [V], ascending.

    fill_by_rank: where fewer than `size` tokens were seen, add unseen ones in id order (in a BPE vocabulary the
    order of their merges, so the more general first) instead of raising.
    """
    seen = int((counts > 0).sum())
    if size > len(counts):
        raise ValueError(
            f"draft_vocab_size is {size} but the target's vocabulary has {len(counts)} tokens; lower it"
        )
    if size > seen and not fill_by_rank:
        raise ValueError(
            f"draft_vocab_size is {size} but the responses hold {seen} distinct tokens; "
            "lower it, add text, or fill the rest by rank (fill_by_rank=True)"
        )
    order = torch.argsort(
        counts, descending=True, stable=True
    )  # stable: unseen tokens stay in id order
    return order[:size].sort().values


def coverage(counts: torch.Tensor, target_ids: torch.Tensor) -> float:
    """Share of the counted tokens [V] that the draft vocabulary [U] can propose."""
    total = counts.sum().item()
    if total == 0:
        raise ValueError("no response tokens were counted; coverage of an empty text is undefined")
    return counts[target_ids].sum().item() / total
