"""Which tokens of a prompt a drafter's window keeps besides the newest: those that the prompt's end attends to most.

SnapKV (arXiv 2404.14469), as MagicDec drafts with it: once, at the end of the prefill, every layer and key head chooses for
itself. B batch, h query heads, g key heads, S prompt slots, D head width, n observed queries, C kept slots.
"""

import torch

from eagle_hf.decoding.reading import Queries, recording_queries
from eagle_hf.decoding.window import Window

OBSERVED, POOL = (
    32,
    5,
)  # queries that vote, and neighbours over which votes are averaged (arXiv 2408.11049, section 4.1)


class Selection:
    """The choice for one prefill of prompts whose real slots are `visible` (bool [B, S])."""

    def __init__(self, window: Window, visible: torch.Tensor):
        self.window = window
        self.positions = (visible.long().cumsum(1) - 1).masked_fill(~visible, -1)
        at, self.seen = observed(self.positions)
        self.queries = Queries(at)

    def watching(self):
        """The prefill runs inside this block."""
        return recording_queries(self.queries)

    def kept(self, layer: int, key: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        """The prompt slots [B, g, C] that a layer of these keys [B, g, S, D] keeps, where a window alone would keep `slots` [B, C]."""
        query, scaling = self.queries.layers[layer]
        places = [part.to(key.device) for part in (self.seen, slots, self.positions)]
        return choose(places[1], votes(query, key, places[0], scaling), places[2], self.window)


def observed(positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(slots [B, n], bool [B, n, S] what they see) of the last OBSERVED tokens of prompts at `positions` [B, S], -1 for padding.

    A shorter prompt's first entries are padding, which sees nothing.
    """
    at = positions.argsort(dim=1, stable=True)[:, -OBSERVED:]
    seen = (positions[:, None] >= 0) & (positions[:, None] <= positions.gather(1, at)[..., None])
    return at, seen


def votes(
    query: torch.Tensor, key: torch.Tensor, seen: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """How much the queries [B, h, n, D] attend to every key [B, g, S, D]: float32 [B, g, S], summed over queries and a group's heads."""
    groups, width = key.shape[1], query.shape[-1]
    scores = (
        query.unflatten(1, (groups, -1))
        @ key[:, :, None].mT
        * (width**-0.5 if scaling is None else scaling)
    )  # [B, g, h/g, n, S]
    probs = scores.float().masked_fill(~seen[:, None, None], -torch.inf).softmax(-1).nan_to_num()
    return torch.nn.functional.avg_pool1d(probs.sum((2, 3)), POOL, stride=1, padding=POOL // 2)


def choose(
    kept: torch.Tensor, votes: torch.Tensor, positions: torch.Tensor, window: Window
) -> torch.Tensor:
    """The prompt slots [B, g, C] to keep: `kept` [B, C], with the most voted for in place of the sinks where the window has left tokens behind.

    votes [B, g, S]; positions [B, S]; a token that the window still shows is no candidate.
    """
    lengths = positions.max(dim=1).values + 1
    left = (positions >= 0) & (positions < (lengths - window.width)[:, None])
    kept, full = kept[:, None].repeat(1, votes.shape[1], 1), left.sum(1) >= window.sinks
    if not full.any():
        return kept
    best = votes.masked_fill(~left[:, None], -1).topk(window.sinks, dim=-1).indices
    best = best.gather(
        -1, positions[:, None].expand(-1, best.shape[1], -1).gather(-1, best).argsort(-1)
    )  # in the text's order
    kept[full, :, : window.sinks] = best[full]
    return kept
