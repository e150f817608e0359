"""A fixed draft tree, the same in every round, whatever the tokens are.

N nodes besides the root. Node 0 is the root: the newest committed token, at depth 0.

An example with N = 4. Two children hang below the root, and a chain of two below the first of them:

    0                      node      0  1  2  3  4
    ├─ 1  (rank 0)         parents   0  0  0  1  3
    │  └─ 3  (rank 0)      ranks     0  0  1  0  0
    │     └─ 4  (rank 0)   depths    0  1  1  2  3
    └─ 2  (rank 1)
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy
from numpy.typing import ArrayLike

from eagle_hf.head.trees import check_static_tree
from eagle_hf.planning.shares import shares_by_depth


@dataclass(frozen=True)
class StaticTree:
    """The shape of a draft tree. The default is the root alone, which is plain decoding.

    Args:
        parents: The parent of each of the N + 1 nodes. The root is its own parent. Parents precede
            their children.
        ranks: Which guess of its parent's drafting each node holds, 0 for the best. The root has
            rank 0. The children of a node have the ranks 0, 1, ... without gaps.

    Raises:
        ValueError: If parents and ranks are not such a tree.
    """

    parents: tuple[int, ...] = (0,)
    ranks: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        check_static_tree(self.parents, self.ranks)

    @property
    def size(self) -> int:
        """The number of nodes besides the root."""
        return len(self.parents) - 1

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """The depth of each node, [N + 1]; the root's is 0."""
        depths = [0]
        for parent in self.parents[1:]:
            depths.append(depths[parent] + 1)
        return tuple(depths)

    @property
    def depth(self) -> int:
        """The number of levels below the root; 0 for the root alone."""
        return max(self.depths)

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """The children of each node, [N + 1], in the order of their ranks."""

        def rank(node: int) -> int:
            return self.ranks[node]

        children: list[list[int]] = [[] for _ in self.parents]
        for node in sorted(range(1, len(self.parents)), key=rank):
            children[self.parents[node]].append(node)
        return tuple(map(tuple, children))

    @property
    def widths(self) -> tuple[int, ...]:
        """The width of each draft forward, [depth]: how many nodes of that depth have children."""
        widths = [0] * self.depth
        drafting_nodes = set(self.parents[1:])
        for node in drafting_nodes:
            widths[self.depths[node]] += 1
        return tuple(widths)

    def reach(self, shares: ArrayLike) -> numpy.ndarray:
        """Compute the probability that each node is accepted.

        Args:
            shares: Shares [D, W], see `eagle_hf.planning.shares`.

        Returns:
            Probabilities, float [N + 1]: the product of the shares along each node's path, 1 for
            the root.

        Raises:
            ValueError: If the shares are invalid, or have fewer ranks than the tree.
        """
        by_depth = shares_by_depth(shares, self.depth)  # [depth, W]
        if max(self.ranks) >= by_depth.shape[1]:
            raise ValueError(
                f"the tree has a child of rank {max(self.ranks)} but shares has "
                f"{by_depth.shape[1]} ranks; measure more children"
            )
        reach = [1.0]
        for node in range(1, len(self.parents)):
            # A row of shares belongs to the depth of the parent that drafts.
            share = by_depth[self.depths[node] - 1, self.ranks[node]]
            reach.append(reach[self.parents[node]] * share)
        return numpy.array(reach)

    def expected_tokens(self, shares: ArrayLike) -> float:
        """Compute how many tokens a round emits on average, the bonus included.

        The result is exact if acceptance depends on depth and rank alone.

        Args:
            shares: Shares [D, W], see `eagle_hf.planning.shares`.

        Returns:
            Tokens per round.

        Raises:
            ValueError: If the shares are invalid, or have fewer ranks than the tree.
        """
        return float(self.reach(shares).sum())

    def to_dict(self) -> dict[str, list[int]]:
        """Return the tree as plain lists, for JSON."""
        return {"parents": list(self.parents), "ranks": list(self.ranks)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "StaticTree":
        """Make a tree from what `to_dict` returned, through JSON too.

        Args:
            fields: The lists "parents" and "ranks".

        Returns:
            The tree.

        Raises:
            ValueError: If the keys are others, or the lists are not a tree.
        """
        if set(fields) != {"parents", "ranks"}:
            raise ValueError(f"a tree has the keys parents and ranks; these are {sorted(fields)}")
        for name, values in fields.items():
            if not _are_integers(values):
                raise ValueError(
                    f"{name} must be a list of integers, one per node; it is {values!r:.80}"
                )
        return cls(tuple(fields["parents"]), tuple(fields["ranks"]))


def draw(tree: StaticTree, shares: ArrayLike) -> str:
    """Draw a tree as text: a line per node, with its rank and its probability of being accepted.

    Example: the tree of this module's docstring.

        root: 4 nodes, depth 3, 1.96 tokens per round
        ├─ 0  0.500
        │  └─ 0  0.200
        │     └─ 0  0.060
        └─ 1  0.200

    Args:
        tree: The tree to draw.
        shares: Shares [D, W], see `eagle_hf.planning.shares`.

    Returns:
        The drawing, without a newline at the end.

    Raises:
        ValueError: If the shares are invalid, or have fewer ranks than the tree.
    """
    reach = tree.reach(shares)
    lines = [f"root: {tree.size} nodes, depth {tree.depth}, {reach.sum():.2f} tokens per round"]
    _draw_children(tree, reach, 0, "", lines)
    return "\n".join(lines)


def _draw_children(
    tree: StaticTree, reach: numpy.ndarray, node: int, indent: str, lines: list[str]
) -> None:
    """Append a line to `lines` for every node below `node`, depth first."""
    children = tree.children[node]
    for child in children:
        is_last = child == children[-1]
        branch = "└─" if is_last else "├─"
        # The line down to the next sibling passes all nodes below this child.
        trunk = "   " if is_last else "│  "
        lines.append(f"{indent}{branch} {tree.ranks[child]}  {reach[child]:.3f}")
        _draw_children(tree, reach, child, indent + trunk, lines)


def _are_integers(values: Any) -> bool:
    """Tell whether these values, from a file, are a list of integers."""
    if not isinstance(values, (list, tuple)):
        return False
    # A bool is an int to isinstance, and JSON can hold one.
    return all(type(value) is int for value in values)
