"""Which tokens of a prompt a drafter's window keeps: those that the prompt's end attends to most.

SnapKV (arXiv 2404.14469), as MagicDec drafts with it: once, at the end of the prefill, every layer
and key head chooses for itself, besides the newest tokens, which the window keeps anyway.

B batch, h query heads, g key heads, S prompt slots, D head width, n observed queries, C kept slots.
"""

from contextlib import AbstractContextManager, nullcontext

import torch

from eagle_hf.decoding.tree_attention import QueryRecorder, recording_queries
from eagle_hf.decoding.window import Window

# arXiv 2408.11049, section 4.1: queries that vote, and neighbours over which votes are averaged
OBSERVED = 32
POOL = 5


class Selection:
    """The choice for one prefill of prompts whose real slots are `visible` (bool [B, S])."""

    def __init__(self, window: Window, visible: torch.Tensor):
        self.window = window
        positions = visible.long().cumsum(1) - 1
        self.positions = positions.masked_fill(~visible, -1)
        slots, self.seen = observed(self.positions)
        self.recorder = QueryRecorder(slots)

    def recording(self) -> AbstractContextManager:
        """The block in which the prefill runs."""
        return recording_queries(self.recorder)

    def kept(self, layer: int, key: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        """The prompt slots [B, g, C] that a layer of these keys [B, g, S, D] keeps.

        slots [B, C]: what a window alone would keep.
        """
        query, scaling = self.recorder.layers[layer]
        device = key.device
        scores = votes(query, key, self.seen.to(device), scaling)
        return choose(slots.to(device), scores, self.positions.to(device), self.window)


def observed(positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The last OBSERVED tokens of prompts at `positions` [B, S], which are -1 for padding.

    Returns:
        Their slots [B, n], and what they see (bool [B, n, S]). The first entries of a shorter
        prompt are padding, which sees nothing.
    """
    slots = positions.argsort(dim=1, stable=True)[:, -OBSERVED:]
    at = positions.gather(1, slots)[..., None]  # [B, n, 1]
    keys = positions[:, None]  # [B, 1, S]
    return slots, (keys >= 0) & (keys <= at)


def votes(
    query: torch.Tensor, key: torch.Tensor, seen: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """How much queries [B, h, n, D] attend to every key [B, g, S, D].

    Returns:
        float32 [B, g, S], summed over queries and over the heads of a group, averaged over
        neighbours.
    """
    groups = key.shape[1]
    if scaling is None:
        scaling = query.shape[-1] ** -0.5
    by_group = query.unflatten(1, (groups, -1))  # [B, g, h/g, n, D]
    scores = by_group @ key[:, :, None].mT * scaling  # [B, g, h/g, n, S]
    scores = scores.float().masked_fill(~seen[:, None, None], -torch.inf)
    probs = scores.softmax(-1).nan_to_num()  # padding sees nothing: nan
    return torch.nn.functional.avg_pool1d(probs.sum((2, 3)), POOL, stride=1, padding=POOL // 2)


def choose(
    kept: torch.Tensor, votes: torch.Tensor, positions: torch.Tensor, window: Window
) -> torch.Tensor:
    """The prompt slots [B, g, C] to keep.

    Args:
        kept: [B, C], what a window alone keeps; the sinks come first.
        votes: [B, g, S].
        positions: [B, S] of the prompt's tokens, -1 for padding.
        window: a row whose window has left enough tokens behind keeps the most voted for in place
            of the sinks. A token that the window still shows is no candidate.
    """
    lengths = positions.max(dim=1).values + 1
    window_starts = (lengths - window.width)[:, None]
    is_left = (positions >= 0) & (positions < window_starts)  # [B, S]
    chooses = is_left.sum(1) >= window.sinks  # [B]
    kept = kept[:, None].repeat(1, votes.shape[1], 1)
    if not chooses.any():
        return kept
    best = votes.masked_fill(~is_left[:, None], -1).topk(window.sinks, dim=-1).indices
    # in the text's order
    at = positions[:, None].expand(-1, best.shape[1], -1).gather(-1, best)
    best = best.gather(-1, at.argsort(-1))
    kept[chooses, :, : window.sinks] = best[chooses]
    return kept


def recorded(selection: Selection | None) -> AbstractContextManager:
    """The block in which a prompt is read, recorded for `selection` if there is one."""
    return nullcontext() if selection is None else selection.recording()
