"""Draft trees as tensors.

B batch, N nodes with the root, P proposals, V target vocabulary, U draft vocabulary. Node 0 is the
root: the newest committed token, at depth 0. Parents precede their children. A pool is all that was
proposed. A tree is the part of it that the target reads.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch

from eagle_hf.decoding.upload import upload


@dataclass
class Tree:
    """One round's tree for every row.

    Attributes:
        tokens, parents, depths: int64 [B, N]; the root is its own parent.
        offers: where drafts were drawn, the distribution [B, U] by node that each node's children
            were drawn from.
    """

    tokens: torch.Tensor
    parents: torch.Tensor
    depths: torch.Tensor
    offers: dict[int, torch.Tensor] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """N, the root included."""
        return self.tokens.shape[1]

    @cached_property
    def ancestors(self) -> torch.Tensor:
        """Bool [B, N, N]: [b, i, j] tells whether node j is node i or one of its ancestors."""
        batch, nodes = self.parents.shape
        own = torch.eye(nodes, dtype=torch.bool, device=self.parents.device)
        mask = own.expand(batch, -1, -1)
        above = self.parents
        # every turn doubles how far up `mask` and `above` reach
        for _ in range((nodes - 1).bit_length()):
            mask = mask | mask.gather(1, above[:, :, None].expand(-1, -1, nodes))
            above = above.gather(1, above)
        return mask

    @cached_property
    def lists(self) -> list:
        """[tokens, parents] as lists."""
        return torch.stack([self.tokens, self.parents]).tolist()

    def fetch(self, decided: torch.Tensor) -> list[list[int]]:
        """An int64 tensor [B, N] as lists; `lists` come along, so a GPU is waited for once."""
        tokens, parents, decided = torch.stack([self.tokens, self.parents, decided]).tolist()
        self.lists = [tokens, parents]
        return decided

    def children(self, row: int) -> list[dict[int, int]]:
        """For every node of a row, its children: token -> node."""
        children: list[dict[int, int]] = [{} for _ in range(self.size)]
        for parent, token, node in self._drafts(row):
            children[parent][token] = node
        return children

    def drawn(self, row: int) -> list[list[tuple[int, int]]]:
        """For every node of a row, its children (token, node) in the order they were drawn in."""
        children: list[list[tuple[int, int]]] = [[] for _ in range(self.size)]
        for parent, token, node in self._drafts(row):
            children[parent].append((token, node))
        return children

    def offer(
        self, node: int, row: int, draft_to_target: torch.Tensor | None, vocabulary: int
    ) -> torch.Tensor:
        """The distribution [V] that a node's children were drawn from.

        Args:
            node: one with children.
            row: of the batch.
            draft_to_target: target ids [U] of what drafts are drawn from; None where they are the
                same.
            vocabulary: V, the target's.
        """
        offer = self.offers[node][row]  # [U]
        if draft_to_target is None:
            return offer
        whole = torch.zeros(vocabulary, device=offer.device)
        return whole.scatter_(0, draft_to_target, offer)

    def with_chains(self, rows: list[int], token: int) -> "Tree":
        """The same tree, but in `rows` the drafts are a chain that repeats a token.

        A chain of N - 1 drafts is at least as deep as the drafts of any other row.
        """
        index = upload(rows, self.tokens.device)
        numbers = torch.arange(self.size, device=self.tokens.device)
        tokens = self.tokens.clone()
        parents = self.parents.clone()
        depths = self.depths.clone()
        tokens[index, 1:] = token
        parents[index] = (numbers - 1).clamp(min=0)
        depths[index] = numbers
        return Tree(tokens, parents, depths, self.offers)

    def _drafts(self, row: int) -> list[tuple[int, int, int]]:
        """(parent, token, node) of every node of a row but the root."""
        tokens, parents = self.lists
        nodes = range(1, self.size)
        return list(zip(parents[row][1:], tokens[row][1:], nodes, strict=True))


def root_alone(root: torch.Tensor) -> Tree:
    """The tree of a round without drafts below the newest tokens `root` [B]."""
    zero = torch.zeros_like(root)[:, None]
    return Tree(root[:, None], zero, zero)


def best_nodes(root: torch.Tensor, tokens, parents, depths, scores, nodes: int) -> Tree:
    """The tree of the `nodes` best-scored of P proposals, for every row.

    Args:
        root: [B], the newest tokens.
        tokens, parents, scores: [B, P]. Parents index the pool, with the root as 0 and proposal i
            as i + 1.
        depths: [P], ascending.
        nodes: how many are kept.

    A child never outscores its parent and follows it in the pool. So the stable sort, which breaks
    ties by pool order and thereby by depth, keeps the tree connected (EAGLE-2, section 4.2).
    """
    batch, pool = scores.shape
    ranking = scores.argsort(dim=1, descending=True, stable=True)
    kept = ranking[:, :nodes].sort(dim=1).values  # [B, n], in pool order
    numbers = torch.arange(1, kept.shape[1] + 1, device=scores.device).expand(batch, -1)
    node_of = torch.zeros(batch, pool + 1, dtype=torch.long, device=scores.device)
    node_of.scatter_(1, kept + 1, numbers)  # pool index -> node
    zero = torch.zeros_like(root)[:, None]
    return Tree(
        tokens=torch.cat([root[:, None], tokens.gather(1, kept)], dim=1),
        parents=torch.cat([zero, node_of.gather(1, parents.gather(1, kept))], dim=1),
        depths=torch.cat([zero, depths[kept]], dim=1),
    )
