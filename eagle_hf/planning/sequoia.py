"""The best fixed tree for a measured acceptance and a measured machine.

After Sequoia, arXiv 2402.12374, section 4.

N nodes besides the root, D depth (levels below the root), W children per node.

The idea: measure how often the target accepts the drafter's first, second, ... W-th guess, at every
depth. A node is accepted with the product of these shares along its path, whatever the tokens are.
So a dynamic programme finds the tree of N nodes that emits most tokens, once and before decoding.
The costs of the machine then choose among the best trees of all sizes and depths.

A round emits 1 + the sum of these products over all nodes besides the root. This is exact if
acceptance depends on depth and rank alone. In the paper it depends on the rank alone, but
acceptance decays with depth. `eagle_hf.planning.shares` defines the shares.

The children of a node have its first ranks, without gaps: a drafter that is asked for b children
gives its b best guesses. Where shares do not increase with the rank, as a good drafter's should
not, the best tree is simply the N likeliest nodes within the depth. Measured shares are not always
ordered like this. The programme finds the best tree either way.

Two deviations from the paper's programme. Shares, unlike the paper's p, vary with the depth, so the
state includes the depth. Children are settled from the last rank on, so the state needs no number
of children.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike

from eagle_hf.planning.shares import acceptance_vector, shares_by_depth
from eagle_hf.planning.static_tree import StaticTree, draw

__all__ = [
    "Programme",
    "StaticTree",
    "acceptance_vector",
    "best_tree",
    "best_tree_for",
    "draw",
    "solve",
]

# Seconds of a forward, by its tokens (of the target) or by its width (of the drafter).
CostFunction = Callable[[int], float]


@dataclass(frozen=True, eq=False)
class Programme:
    """The best trees of every size and depth, up to the N and D that `solve` was asked for.

    Args:
        values: [N + 1, D + 1]. values[n, d] is the tokens per round of the best tree of exactly n
            nodes with no node deeper than d. It is -inf where no such tree exists.
        splits: [D + 1, D, W, N + 1]. The choices behind these values, see `solve`.
    """

    values: numpy.ndarray
    splits: numpy.ndarray

    def tree(self, nodes: int, depth: int) -> StaticTree:
        """Build the tree behind values[nodes, depth].

        Args:
            nodes: The exact number of nodes besides the root.
            depth: The most levels below the root.

        Returns:
            The tree, its nodes in breadth-first order.

        Raises:
            ValueError: If the programme was solved for less, or no such tree exists.
        """
        self._check_solved(nodes, depth)
        parents = [0]
        ranks = [0]
        # Nodes whose children are still to be added: (node, its depth, number of nodes below it).
        waiting = deque([(0, 0, nodes)])
        while waiting:
            parent, parent_depth, below = waiting.popleft()
            levels = depth - parent_depth
            rank = 0
            while below:
                # The child of this rank takes `size` nodes, later siblings share the rest.
                size = int(self.splits[levels, parent_depth, rank, below])
                waiting.append((len(parents), parent_depth + 1, size - 1))
                parents.append(parent)
                ranks.append(rank)
                rank += 1
                below -= size
        return StaticTree(tuple(parents), tuple(ranks))

    def _check_solved(self, nodes: int, depth: int) -> None:
        """Raise a ValueError unless the programme has a tree of this size and depth."""
        most_nodes = self.values.shape[0] - 1
        most_depth = self.values.shape[1] - 1
        if not (0 <= nodes <= most_nodes and 0 <= depth <= most_depth):
            raise ValueError(
                f"asked for {nodes} nodes, depth {depth}; solved for 0 to {most_nodes} and 0 to "
                f"{most_depth}: solve for more"
            )
        if self.values[nodes, depth] == -numpy.inf:
            possible_sizes = int(numpy.isfinite(self.values[:, depth]).sum())
            raise ValueError(
                f"no tree of depth {depth} and {self.splits.shape[2]} children per node has "
                f"{nodes} nodes; {possible_sizes - 1} is the most"
            )


def solve(shares: ArrayLike, nodes: int, depth: int) -> Programme:
    """Solve the dynamic programme for all sizes to `nodes` = N and all depths to `depth` = D.

    best[l, d, n] is the number of accepted nodes expected in a subtree of n nodes below its root,
    the root counted as 1. The root sits at depth d, l levels may follow, and l + d <= D.

    The children of a root are settled from the last rank to the first. Let rest[n] be the gain of n
    nodes under the ranks k + 1, k + 2, .... Then n nodes under the ranks from k on gain

        max over 1 <= m <= n of  shares[d, k] * best[l - 1, d + 1, m - 1] + rest[n - m]

    and 0 for n = 0. splits[l, d, k, n] is the best m: the nodes of the child of rank k, itself
    included. The programme takes D^2 / 2 * W steps of N^2 each.

    Args:
        shares: Shares [D', W], see `eagle_hf.planning.shares`.
        nodes: The largest size, in nodes besides the root.
        depth: The largest depth, in levels below the root.

    Returns:
        The values and choices of all sizes and depths.

    Raises:
        ValueError: If `nodes` or `depth` is negative, or the shares are invalid.
    """
    if nodes < 0 or depth < 0:
        raise ValueError(f"a tree of {nodes} nodes and depth {depth}; both must be 0 or more")
    by_depth = shares_by_depth(shares, depth)  # [D, W]
    width = by_depth.shape[1]
    # Without children, a subtree has 0 nodes below its root and no other number.
    no_children = numpy.full(nodes + 1, -numpy.inf)  # [N + 1]
    no_children[0] = 0.0
    best = numpy.tile(no_children + 1, (depth + 1, depth + 1, 1))  # [D + 1, D + 1, N + 1]
    splits = numpy.zeros((depth + 1, depth, width, nodes + 1), dtype=numpy.int32)
    # With n nodes, ranks from n on stay empty in every tree.
    ranks = range(min(width, nodes))
    for levels in range(1, depth + 1):
        for root_depth in range(depth - levels + 1):
            child = best[levels - 1, root_depth + 1]  # [N + 1]
            gain = no_children
            for rank in reversed(ranks):
                share = by_depth[root_depth, rank]
                gain, split = _add_sibling(share, child, gain)
                splits[levels, root_depth, rank] = split
            best[levels, root_depth] = 1 + gain
    # Trees have their root at depth 0: [D + 1, N + 1], turned to [N + 1, D + 1].
    return Programme(best[:, 0].T, splits)


def _add_sibling(
    share: float, child: numpy.ndarray, rest: numpy.ndarray
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Put one more sibling in front of the ranks of `rest`.

    Args:
        share: The share of the new sibling.
        child: [N + 1], accepted nodes in its subtree by the nodes below it, if it is accepted.
        rest: [N + 1], the gain of the siblings after it by their nodes.

    Returns:
        The gain [N + 1] with the new sibling, by all nodes, and the nodes m [N + 1] of its subtree.
    """
    size = len(rest)  # N + 1
    # 1) The gain of the new sibling by its own m nodes; at least 1. `where` avoids 0 * -inf = nan.
    gain = numpy.full(size, -numpy.inf)  # [N + 1]
    numpy.multiply(share, child[:-1], out=gain[1:], where=numpy.isfinite(child[:-1]))
    # 2) rest[n - m] for all n and m at once, -inf where m > n. Window n of the padded row ends at
    #    rest[n], so its reverse is rest[n], rest[n - 1], ....
    padding = numpy.full(size - 1, -numpy.inf)
    windows = sliding_window_view(numpy.concatenate([padding, rest]), size)  # [N + 1, N + 1]
    rest_by_split = windows[:, ::-1]  # [n, m]: rest[n - m]
    # 3) The best split of every n.
    total = gain + rest_by_split  # [n, m]
    split = total.argmax(1)  # [N + 1]
    together = total[numpy.arange(size), split]  # [N + 1]
    together[0] = 0.0
    return together, split


def best_tree(shares: ArrayLike, nodes: int, depth: int) -> StaticTree:
    """Find the tree that emits most tokens per round.

    Example: the third guess is better than the second. It has to pay for the second.

        >>> best_tree([[0.5, 0.05, 0.4], [0.2, 0.0, 0.0]], nodes=3, depth=2)
        StaticTree(parents=(0, 0, 0, 0), ranks=(0, 0, 1, 2))

    Args:
        shares: Shares [D, W], see `eagle_hf.planning.shares`.
        nodes: The exact number of nodes besides the root.
        depth: The most levels below the root.

    Returns:
        The tree.

    Raises:
        ValueError: If no such tree exists: W + W^2 + ... + W^depth is the most a tree can hold.
    """
    return solve(shares, nodes, depth).tree(nodes, depth)


def best_tree_for(
    shares: ArrayLike,
    target_seconds: CostFunction | Sequence[float] | numpy.ndarray,
    draft_seconds: float | CostFunction,
    max_nodes: int,
    max_depth: int,
) -> tuple[StaticTree, float]:
    """Find the tree with most tokens per second on a measured machine.

    Every size is tried, for real costs rise and fall with it. The root alone, which is plain
    decoding, takes part. Where drafting costs vary with the width, the result is the best of the
    trees that are optimal for their size and depth: the programme itself does not weigh widths.

    Args:
        shares: Shares [D, W], see `eagle_hf.planning.shares`.
        target_seconds: Seconds of a target forward, as a function of its tokens, or as an array
            whose entry n is for n + 1 tokens: the root and n drafts.
        draft_seconds: Seconds of one draft forward, of which a tree needs one per level. Either one
            number, or a function of the forward's width, that is the nodes expanded together.
        max_nodes: The largest size to try, in nodes besides the root.
        max_depth: The largest depth to try, in levels below the root.

    Returns:
        The tree, and its predicted tokens per second.

    Raises:
        ValueError: If the shares are invalid, or seconds are missing, not finite or negative.
    """
    target_table = _target_table(target_seconds, max_nodes)  # [max_nodes + 1]
    shares = numpy.asarray(shares, dtype=float)
    # The cache needs a hashable key, which an array is not.
    programme = _solve_once(shares.tobytes(), shares.shape, max_nodes, max_depth)
    best = StaticTree()
    best_rate = 1 / target_table[0]
    for nodes in range(1, max_nodes + 1):
        verify_seconds = target_table[nodes]
        for depth in range(1, max_depth + 1):
            tokens = programme.values[nodes, depth]
            # This tree would lose even with free drafts. Where there is none, tokens are -inf.
            if tokens <= best_rate * verify_seconds:
                continue
            tree = programme.tree(nodes, depth)
            rate = tokens / (verify_seconds + _drafting_seconds(tree, draft_seconds))
            if rate > best_rate:
                best = tree
                best_rate = rate
    return best, float(best_rate)


@lru_cache(maxsize=8)
def _solve_once(shares: bytes, shape: tuple[int, ...], nodes: int, depth: int) -> Programme:
    """Solve once for all batches, lengths and calls.

    The programme does not depend on costs, and takes a hundredth of a second or more.
    """
    return solve(numpy.frombuffer(shares).reshape(shape), nodes, depth)


def _drafting_seconds(tree: StaticTree, draft_seconds: float | CostFunction) -> float:
    """Sum the seconds of a round's draft forwards, one per level of the tree."""
    widths = tree.widths
    if callable(draft_seconds):
        seconds_of = cast(CostFunction, draft_seconds)
        seconds = [seconds_of(width) for width in widths]
    else:
        seconds = [draft_seconds] * len(widths)
    # `not ... >= 0` refuses nan as well, which `... < 0` would not.
    if not min(seconds) >= 0:
        raise ValueError(
            f"draft forwards of {widths} nodes take {seconds} seconds; none may be negative or nan"
        )
    return sum(seconds)


def _target_table(
    target_seconds: CostFunction | Sequence[float] | numpy.ndarray, max_nodes: int
) -> numpy.ndarray:
    """Tabulate target forwards: seconds [max_nodes + 1] or longer, entry n for n + 1 tokens."""
    if callable(target_seconds):
        seconds_of = cast(CostFunction, target_seconds)
        target_seconds = [seconds_of(nodes + 1) for nodes in range(max_nodes + 1)]
    table = numpy.asarray(target_seconds, dtype=float)
    if table.ndim != 1 or len(table) <= max_nodes:
        raise ValueError(
            f"target_seconds has the shape {table.shape}; needed is [{max_nodes + 1}] or longer; "
            "measure more"
        )
    are_seconds = numpy.isfinite(table) & (table > 0)
    if not are_seconds.all():
        raise ValueError("target_seconds must be positive and finite; measure again")
    return table
