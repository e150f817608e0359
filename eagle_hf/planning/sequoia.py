"""The best static tree for a measured acceptance and a measured machine (Sequoia, arXiv 2402.12374, section 4).

N nodes besides the root, D depth (levels below the root), W children per node.

The idea: measure how often the drafter's first, second, ... W-th guess is the one the target takes, at every depth. A
node is accepted with the product of these numbers along its path, whatever the tokens are; so the tree of n nodes that
gains most follows from a dynamic programme, once and before decoding. What n and d are worth is then up to the machine.

shares, float [D, W], is the one convention here: shares[d, k] = P(the child of rank k is the accepted one | its parent,
at depth d, was accepted), rank 0 being the drafter's best guess. Siblings exclude each other, so that a row sums to at
most 1 and a round emits 1 + sum over nodes of the product of shares along the path: exactly, if acceptance depends on
depth and rank alone (in the paper on rank alone; but acceptance decays with depth). The paper's own vector is
p[k] = P(rank k accepted | earlier siblings were not); shares[k] = p[k] * prod over j < k of (1 - p[j]) is the same
information. Depths beyond the last row are taken to be like it.

Children hold the first ranks of their node, without gaps: ranks need not be ordered by share, but a drafter that is
asked for b children gives its b best guesses. Where shares do not increase with the rank, as a good drafter's should,
the optimum is plainly the n likeliest nodes within the depth; measured rows are not always so, the programme does not mind.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache

import numpy
from numpy.lib.stride_tricks import sliding_window_view

from eagle_hf.head.configuration import check_static_tree


def acceptance_vector(counts) -> numpy.ndarray:
    """Shares [D, W] from counts = (trials [D], accepted [D, W]).

    trials[d]: accepted nodes at depth d that were offered all W children; accepted[d, k]: in how many of these the child
    of rank k was the accepted one. A depth without trials takes the row of the deepest tried depth above it. Counts are
    for one way of choosing: greedy and sampled ones do not mix.
    """
    trials, accepted = (numpy.asarray(part, dtype=float) for part in counts)
    if trials.ndim != 1 or accepted.ndim != 2 or len(trials) != len(accepted) or not accepted.size:
        raise ValueError(
            f"counts have the shapes {trials.shape} and {accepted.shape}; needed are trials [D] and accepted [D, W]"
        )
    if not (
        numpy.isfinite(trials).all() and numpy.isfinite(accepted).all() and (accepted >= 0).all()
    ):
        raise ValueError(
            "counts must be finite and not negative; count again from the verification logs"
        )
    for depth, (tried, kept) in enumerate(zip(trials, accepted.sum(1))):
        if kept > tried:
            raise ValueError(
                f"at depth {depth} {kept:g} children were accepted in {tried:g} trials; a trial accepts one child at most"
            )
    if not trials[0]:
        raise ValueError(
            "the root was never tried, so there is nothing to plan from; measure at least one round"
        )
    source = numpy.maximum.accumulate(numpy.where(trials > 0, numpy.arange(len(trials)), 0))
    return accepted[source] / trials[source, None]


@dataclass(frozen=True)
class StaticTree:
    """Node 0 is the root, its own parent, of rank 0; parents precede children; N + 1 entries each.

    ranks[i]: which guess of its parent's drafting node i holds, 0 for the best; children have the ranks 0, 1, ... without gaps.
    """

    parents: tuple[int, ...] = (0,)
    ranks: tuple[int, ...] = (0,)

    def __post_init__(self):
        check_static_tree(self.parents, self.ranks)

    @property
    def size(self) -> int:
        """Nodes besides the root."""
        return len(self.parents) - 1

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Of every node; the root's is 0."""
        depths = [0]
        for parent in self.parents[1:]:
            depths.append(depths[parent] + 1)
        return tuple(depths)

    @property
    def depth(self) -> int:
        """Levels below the root; 0 for the root alone, which is plain decoding."""
        return max(self.depths)

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """Of every node, its children by rank."""
        children = [[] for _ in self.parents]
        for node in sorted(range(1, len(self.parents)), key=self.ranks.__getitem__):
            children[self.parents[node]].append(node)
        return tuple(map(tuple, children))

    @property
    def widths(self) -> tuple[int, ...]:
        """At every depth that drafts, how many nodes have children: the rows of that draft forward."""
        inner = [depth for depth, children in zip(self.depths, self.children) if children]
        return tuple(inner.count(depth) for depth in range(self.depth))

    def reach(self, shares) -> numpy.ndarray:
        """P(node accepted) [N + 1]: the product of shares along its path; 1 for the root."""
        rows = _rows(shares, self.depth)
        if max(self.ranks) >= rows.shape[1]:
            raise ValueError(
                f"the tree has a child of rank {max(self.ranks)} but shares has {rows.shape[1]} ranks; measure more children"
            )
        reach = [1.0]
        for parent, rank, depth in list(zip(self.parents, self.ranks, self.depths))[1:]:
            reach.append(reach[parent] * rows[depth - 1, rank])
        return numpy.array(reach)

    def expected_tokens(self, shares) -> float:
        """Tokens per round, the bonus included."""
        return float(self.reach(shares).sum())

    def to_dict(self) -> dict[str, list[int]]:
        """Plain lists, for JSON."""
        return {name: list(values) for name, values in asdict(self).items()}

    @classmethod
    def from_dict(cls, fields: dict) -> "StaticTree":
        """Inverse of to_dict, through JSON too."""
        if set(fields) != {"parents", "ranks"}:
            raise ValueError(f"a tree has the keys parents and ranks; these are {sorted(fields)}")
        for name, values in fields.items():
            if not isinstance(values, (list, tuple)) or any(
                type(value) is not int for value in values
            ):
                raise ValueError(
                    f"{name} must be a list of integers, one per node; it is {values!r:.80}"
                )
        return cls(tuple(fields["parents"]), tuple(fields["ranks"]))


@dataclass(frozen=True, eq=False)
class Programme:
    """The best trees of every size and depth up to the N and D it was solved for.

    values [N + 1, D + 1]: [n, d] is the tokens per round of the best tree of exactly n nodes with no node deeper than d;
    -inf where no tree is so small and so large. splits [D + 1, D, W, N + 1]: see `solve`.
    """

    values: numpy.ndarray
    splits: numpy.ndarray

    def tree(self, nodes: int, depth: int) -> StaticTree:
        """The tree behind values[nodes, depth], breadth first."""
        most_nodes, most_depth = (length - 1 for length in self.values.shape)
        if not (0 <= nodes <= most_nodes and 0 <= depth <= most_depth):
            raise ValueError(
                f"asked for {nodes} nodes, depth {depth}; solved for 0 to {most_nodes} and 0 to {most_depth}: solve for more"
            )
        if self.values[nodes, depth] == -numpy.inf:
            most = int(numpy.isfinite(self.values[:, depth]).sum()) - 1
            raise ValueError(
                f"no tree of depth {depth} and {self.splits.shape[2]} children per node has {nodes} nodes; {most} is the most"
            )
        parents, ranks, waiting = [0], [0], deque([(0, 0, nodes)])
        while waiting:
            parent, level, below = (
                waiting.popleft()
            )  # below: nodes still to place under this parent
            rank = 0
            while below:
                size = int(self.splits[depth - level, level, rank, below])
                waiting.append((len(parents), level + 1, size - 1))
                parents.append(parent)
                ranks.append(rank)
                rank, below = rank + 1, below - size
        return StaticTree(tuple(parents), tuple(ranks))


def solve(shares, nodes: int, depth: int) -> Programme:
    """The dynamic programme, for all sizes to `nodes` = N and all depths to `depth` = D.

    best[l, d, n]: accepted nodes expected in a subtree of n nodes below its root, the root counted as 1, when the root
    sits at depth d and l levels may follow; l + d <= D. Children are settled from the last rank to the first: with
    rest[n] the gain of n nodes under ranks k + 1, k + 2, ..., the ranks from k gain

        max over 1 <= m <= n of shares[d, k] * best[l - 1, d + 1, m - 1] + rest[n - m],    0 for n = 0,

    and splits[l, d, k, n] is that m: the nodes of the child of rank k, itself included. D^2 / 2 * W steps of N^2.
    Deviations from the paper: shares instead of its p, which vary with depth, so that the state knows the depth; and from
    the last rank on, which spares the number of children.
    """
    if nodes < 0 or depth < 0:
        raise ValueError(f"a tree of {nodes} nodes and depth {depth}; both must be 0 or more")
    rows = _rows(shares, depth)
    width = rows.shape[1]
    nothing = numpy.full(nodes + 1, -numpy.inf)
    nothing[0] = 0.0
    best = numpy.tile(nothing + 1, (depth + 1, depth + 1, 1))
    splits = numpy.zeros((depth + 1, depth, width, nodes + 1), dtype=numpy.int32)
    for levels in range(1, depth + 1):
        for at in range(depth - levels + 1):
            gain = nothing
            for rank in reversed(range(min(width, nodes))):
                gain, splits[levels, at, rank] = _with_child(
                    rows[at, rank], best[levels - 1, at + 1], gain
                )
            best[levels, at] = 1 + gain
    return Programme(best[:, 0].T, splits)


def _with_child(
    share: float, child: numpy.ndarray, rest: numpy.ndarray
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """One more sibling in front of `rest`: its gain [N + 1], and the nodes m of the child's subtree that give it.

    child [N + 1]: best by the nodes below the child, if accepted; rest [N + 1]: gain of the siblings after it.
    """
    gain, size = numpy.full(len(rest), -numpy.inf), len(rest)
    numpy.multiply(
        share, child[:-1], out=gain[1:], where=numpy.isfinite(child[:-1])
    )  # 0 * -inf would be nan
    padded = numpy.concatenate([numpy.full(size - 1, -numpy.inf), rest])
    total = gain + sliding_window_view(padded, size)[:, ::-1]  # [n, m]: gain[m] + rest[n - m]
    split = total.argmax(1)
    together = total[numpy.arange(size), split]
    together[0] = 0.0
    return together, split


def best_tree(shares, nodes: int, depth: int) -> StaticTree:
    """The tree of exactly `nodes` nodes, none deeper than `depth`, that emits most tokens per round.

    ValueError if there is none: W + W^2 + ... + W^depth is the most a tree can hold.
    """
    return solve(shares, nodes, depth).tree(nodes, depth)


def best_tree_for(
    shares,
    target_seconds: Callable[[int], float] | Sequence[float],
    draft_seconds: float | Callable[[int], float],
    max_nodes: int,
    max_depth: int,
) -> tuple[StaticTree, float]:
    """The tree with most tokens per second on a measured machine, and how many that are (predicted).

    target_seconds: of a target forward, as a function of its tokens or an array whose n-th entry is for n + 1 tokens, the
    root and n drafts. Every n is tried, for real tables rise and fall. draft_seconds: of one draft forward, of which a
    tree needs one per level; as a function of its width, the nodes expanded together (then the best of the trees that are
    optimal for their n and d: the programme itself does not weigh widths). The root alone, plain decoding, takes part.
    """
    table = _table(target_seconds, max_nodes)
    draft = draft_seconds if callable(draft_seconds) else lambda width: draft_seconds
    shares = numpy.asarray(shares, dtype=float)
    programme = _solved(shares.tobytes(), shares.shape, max_nodes, max_depth)
    best, best_rate = StaticTree(), 1 / table[0]
    for nodes in range(1, max_nodes + 1):
        for depth in range(1, max_depth + 1):
            tokens = programme.values[nodes, depth]
            if tokens <= best_rate * table[nodes]:  # not even with free drafts, or no such tree
                continue
            tree = programme.tree(nodes, depth)
            drafting = [draft(width) for width in tree.widths]
            if not min(drafting) >= 0:
                raise ValueError(
                    f"draft forwards of {tree.widths} nodes take {drafting} seconds; none may be negative or nan"
                )
            rate = tokens / (table[nodes] + sum(drafting))
            if rate > best_rate:
                best, best_rate = tree, rate
    return best, float(best_rate)


@lru_cache(maxsize=8)
def _solved(shares: bytes, shape: tuple[int, ...], nodes: int, depth: int) -> Programme:
    """`solve`, once for all batches, lengths and calls: it does not depend on costs, and takes a hundredth of a second or more."""
    return solve(numpy.frombuffer(shares).reshape(shape), nodes, depth)


def draw(tree: StaticTree, shares) -> str:
    """The tree as text: a line per node with its rank and its probability of being accepted."""
    reach = tree.reach(shares)
    lines = [f"root: {tree.size} nodes, depth {tree.depth}, {reach.sum():.2f} tokens per round"]

    def add(node, indent):
        for child in tree.children[node]:
            last = child == tree.children[node][-1]
            lines.append(
                f"{indent}{'└─' if last else '├─'} {tree.ranks[child]}  {reach[child]:.3f}"
            )
            add(child, indent + ("   " if last else "│  "))

    add(0, "")
    return "\n".join(lines)


def _rows(shares, depth: int) -> numpy.ndarray:
    """Shares checked, one row for each depth that drafts [depth, W], the last repeated."""
    shares = numpy.asarray(shares, dtype=float)
    if shares.ndim != 2 or not shares.size:
        raise ValueError(
            f"shares have the shape {shares.shape}; needed is [depths, children], as acceptance_vector gives it"
        )
    if not ((shares >= 0).all() and (shares.sum(1) <= 1 + 1e-9).all()):
        raise ValueError(
            "each row of shares must be probabilities that sum to at most 1; Sequoia's p is not yet shares, see the module"
        )
    return shares[numpy.minimum(numpy.arange(depth), len(shares) - 1)]


def _table(target_seconds, max_nodes: int) -> numpy.ndarray:
    """Seconds [max_nodes + 1], entry n for n + 1 tokens."""
    if callable(target_seconds):
        target_seconds = [target_seconds(nodes + 1) for nodes in range(max_nodes + 1)]
    table = numpy.asarray(target_seconds, dtype=float)
    if table.ndim != 1 or len(table) <= max_nodes:
        raise ValueError(
            f"target_seconds has the shape {table.shape}; needed is [{max_nodes + 1}] or longer; measure more"
        )
    if not (numpy.isfinite(table) & (table > 0)).all():
        raise ValueError("target_seconds must be positive and finite; measure again")
    return table
