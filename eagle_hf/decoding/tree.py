"""Draft trees as tensors.

B batch, N nodes with the root. Node 0 is the root: the newest committed token, at depth 0. Parents precede their
children. A pool is all that was proposed, a tree the part of it that the target reads.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch


@dataclass
class Tree:
    """tokens, parents, depths: int64 [B, N]; the root is its own parent.

    offers: where drafts were drawn, the distribution [B, U] that each node's children were drawn from.
    """

    tokens: torch.Tensor
    parents: torch.Tensor
    depths: torch.Tensor
    offers: dict[int, torch.Tensor] = field(default_factory=dict)

    @cached_property
    def ancestors(self) -> torch.Tensor:
        """Bool [B, N, N]: [b, i, j] tells whether node j is node i or one of its ancestors."""
        batch, nodes = self.parents.shape
        mask, above = (
            torch.eye(nodes, dtype=torch.bool, device=self.parents.device).expand(batch, -1, -1),
            self.parents,
        )
        for _ in range(
            (nodes - 1).bit_length()
        ):  # each turn doubles how far up the mask and `above` reach
            mask = mask | mask.gather(1, above[:, :, None].expand(-1, -1, nodes))
            above = above.gather(1, above)
        return mask

    @cached_property
    def lists(self) -> list:
        """tokens and parents as lists."""
        return torch.stack([self.tokens, self.parents]).tolist()

    def fetch(self, decided: torch.Tensor) -> list[list[int]]:
        """An int64 tensor [B, N] as lists, brought to the host together with `lists`: one wait for a GPU."""
        *self.lists, decided = torch.stack([self.tokens, self.parents, decided]).tolist()
        return decided

    def children(self, row: int) -> list[dict[int, int]]:
        """For every node of a row, its children: token -> node."""
        tokens, parents = (part[row] for part in self.lists)
        children = [{} for _ in tokens]
        for node in range(1, len(tokens)):
            children[parents[node]][tokens[node]] = node
        return children

    def drawn(self, row: int) -> list[list[tuple[int, int]]]:
        """For every node of a row, its children (token, node) in the order in which they were drawn."""
        tokens, parents = (part[row] for part in self.lists)
        children = [[] for _ in tokens]
        for node in range(1, len(tokens)):
            children[parents[node]].append((tokens[node], node))
        return children


def root_alone(root: torch.Tensor) -> Tree:
    """The tree of a round without drafts below the newest tokens `root` [B]."""
    zero = torch.zeros_like(root)[:, None]
    return Tree(root[:, None], zero, zero)


def best_nodes(root: torch.Tensor, tokens, parents, depths, scores, nodes: int) -> Tree:
    """The tree of the `nodes` best-scored of P proposals, for every row.

    root [B]; tokens, parents, scores [B, P]; depths [P], ascending. Parents index the pool with the root as 0 and
    proposal i as i + 1. A child never outscores its parent and follows it in the pool, so the stable sort, which
    breaks ties by pool order and so by depth, keeps the tree connected (EAGLE-2, section 4.2).
    """
    batch, pool = scores.shape
    kept = scores.argsort(dim=1, descending=True, stable=True)[:, :nodes].sort(dim=1).values
    place = torch.zeros(
        batch, pool + 1, dtype=torch.long, device=scores.device
    )  # pool index -> node
    place.scatter_(
        1, kept + 1, torch.arange(1, kept.shape[1] + 1, device=scores.device).expand(batch, -1)
    )
    zero = torch.zeros_like(root)[:, None]
    return Tree(
        tokens=torch.cat([root[:, None], tokens.gather(1, kept)], dim=1),
        parents=torch.cat([zero, place.gather(1, parents.gather(1, kept))], dim=1),
        depths=torch.cat([zero, depths[kept]], dim=1),
    )
