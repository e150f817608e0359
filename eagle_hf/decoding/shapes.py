r"""Trees of a fixed shape, prepared once for every run that grows them.

k nodes with children on a level, n nodes of a level, j of them with children. Nodes are numbered
level by level, siblings by rank. The tree of parents (0, 0, 0, 1, 1, 2, 3) and ranks
(0, 0, 1, 0, 1, 0, 0):

    level 0       level 1         level 2         level 3
    0 ----------- 1 (rank 0) ---- 3 (rank 0) ---- 6 (rank 0)
       \           \------------- 4 (rank 1)
        \-------- 2 (rank 1) ---- 5 (rank 0)

Its second `Level` has above = [1, 2] (the nodes it hangs from), parents = [0, 0, 1] (their places
in `above`), ranks = [0, 1, 0], inner = [3] and inner_parents = [0].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch


@dataclass(frozen=True)
class Level:
    """A level of n nodes below the root.

    Attributes:
        above: the k nodes that it hangs from.
        first: its own first node.
        width: how many guesses are needed of each of the k.
        parents, ranks: int64 [n], which guess each node is, by place among the k and by rank.
        inner, inner_parents: int64 [j], the nodes with children, and their parents' places among
            the k; None on the last level.
        seen: bool [j, .], what these see of all nodes run so far; None on the last level.
    """

    above: list[int]
    first: int
    width: int
    parents: torch.Tensor
    ranks: torch.Tensor
    inner: torch.Tensor | None = None
    inner_parents: torch.Tensor | None = None
    seen: torch.Tensor | None = None


@dataclass(frozen=True)
class Shape:
    """A fixed tree on a device: its levels below the root, and parents and depths [1, N]."""

    levels: list[Level]
    parents: torch.Tensor
    depths: torch.Tensor


@lru_cache(maxsize=64)
def fixed_shape(
    parents: tuple[int, ...], ranks: tuple[int, ...], depth: int, device: torch.device
) -> Shape:
    """The tree of these parents and ranks, down to `depth`, as `grow_static` follows it.

    Made once, for threads on any stream.
    """
    # 1) number the nodes level by level
    levels = _levels(parents, ranks, depth)
    order = [node for level in levels for node in level]
    number = {node: new for new, node in enumerate(order)}
    parent_of = [number[parents[node]] for node in order]
    rank_of = [ranks[node] for node in order]
    depths = []
    for level, nodes in enumerate(levels):
        depths += [level] * len(nodes)

    # 2) what is run, and what it sees
    ancestors = ancestors_of(parent_of)
    with_children = set(parent_of[1:])
    above = [0]
    run: list[int] = []
    found = []
    for nodes in levels[1:]:
        level = [number[node] for node in nodes]
        inner = [node for node in level if node in with_children]
        run += inner
        seen = ancestors[inner][:, run].tolist()
        found.append(_level(level, above, inner, parent_of, rank_of, seen, device))
        above = inner
    return Shape(
        levels=found,
        parents=torch.tensor([parent_of], device=device),
        depths=torch.tensor([depths], device=device),
    )


def _levels(parents: Sequence[int], ranks: Sequence[int], depth: int) -> list[list[int]]:
    """The nodes by level, down to `depth`, siblings in the order in which they are drawn."""
    children: list[list[int]] = [[] for _ in parents]
    for node in range(1, len(parents)):
        children[parents[node]].append(node)
    levels = [[0]]
    for _ in range(depth):
        below = []
        for parent in levels[-1]:
            below += sorted(children[parent], key=ranks.__getitem__)
        if not below:
            break
        levels.append(below)
    return levels


def _level(
    level: list[int],
    above: list[int],
    inner: list[int],
    parents: list[int],
    ranks: list[int],
    seen: list[list[bool]],
    device: torch.device,
) -> Level:
    """The level's nodes, hanging from `above`, of which `inner` have children that see `seen`."""
    place = {node: index for index, node in enumerate(above)}
    level_ranks = [ranks[node] for node in level]
    below = {}
    if inner:
        below["inner"] = torch.tensor(inner, device=device)
        places = [place[parents[node]] for node in inner]
        below["inner_parents"] = torch.tensor(places, device=device)
        below["seen"] = torch.tensor(seen, device=device)
    return Level(
        above=above,
        first=level[0],
        width=1 + max(level_ranks),
        parents=torch.tensor([place[parents[node]] for node in level], device=device),
        ranks=torch.tensor(level_ranks, device=device),
        **below,
    )


def chain_shape(depth: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(parents, ranks) of a chain with `depth` drafts."""
    parents = (0, *range(depth))  # node i hangs from node i - 1
    ranks = (0,) * (depth + 1)
    return parents, ranks


def ancestors_of(parents: Sequence[int]) -> torch.Tensor:
    """Bool [N, N]: [i, j] tells whether node j is node i or one of its ancestors.

    Parents precede their children.
    """
    mask = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        mask[node] |= mask[parent]
    return mask
