"""How a tree grows below the newest tokens: by the drafter's probabilities, or in a fixed shape.

B batch, k nodes run together, H hidden, W children proposed per node, P proposals, U draft
vocabulary. A node that is run writes its keys behind those of the nodes run before it. Nodes that
are only proposed are never run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from eagle_hf.decoding.shapes import fixed_shape
from eagle_hf.decoding.tree import Tree, best_nodes
from eagle_hf.decoding.upload import upload


@dataclass(frozen=True)
class Draft:
    """What a round drafted.

    Attributes:
        tree: what the target reads.
        widths: nodes per row of every forward of the drafter, the committed tokens' first.
        expanded: by level, which proposals were run: int64 [B, k], with the root as 0 and proposal
            i of the pool as i + 1. Empty for a fixed shape.
        catches_up: whether the drafter has read committed tokens without drafting.
    """

    tree: Tree
    widths: tuple[int, ...] = ()
    expanded: tuple[torch.Tensor, ...] = ()
    catches_up: bool = False


@dataclass
class Pool:
    """All proposals of a tree so far, level by level: tensors [B, .] and depths [P]."""

    tokens: list[torch.Tensor] = field(default_factory=list)
    parents: list[torch.Tensor] = field(default_factory=list)
    scores: list[torch.Tensor] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)

    def add(self, tokens, parents, scores, depth: int) -> None:
        """Append a level's proposals [B, n]."""
        self.tokens.append(tokens)
        self.parents.append(parents)
        self.scores.append(scores)
        self.depths += [depth] * tokens.shape[1]


def grow(drafter, root: torch.Tensor, policy, depth: int) -> Draft:
    """The tree that a policy wants below the newest tokens `root` [B], at most `depth` deep."""
    if policy.shape is not None:
        parents, ranks = policy.shape
        return grow_static(drafter, root, parents, ranks, depth)
    return grow_dynamic(drafter, root, policy, depth)


def grow_dynamic(drafter, root: torch.Tensor, policy, depth: int) -> Draft:
    """EAGLE-2's tree (arXiv 2406.16858, section 4).

    The k best nodes of each level are run, and the best of all proposals are kept. The policy says
    how sure a proposal is, whether another level is drafted, and how many nodes are kept.
    """
    k = min(policy.k, drafter.vocabulary)
    batch = len(root)
    device = root.device
    own = torch.eye(k, dtype=torch.bool, device=device).expand(batch, -1, -1)

    # 1) the root's children
    hidden = drafter.extend()  # [B, H]
    scores, tokens = drafter.propose(hidden, k)  # [B, k]
    scores = policy.confidence(scores, 1)
    pool = Pool()
    pool.add(tokens, torch.zeros_like(tokens), scores, depth=1)

    # 2) level by level, the children of the k best nodes; all k nodes of the first level are run
    frontier = torch.arange(1, k + 1, device=device).expand(batch, -1)  # pool indices [B, k]
    hidden = hidden[:, None].expand(-1, k, -1)  # [B, k, H]
    ancestors = own  # [B, k, nodes run so far]
    expanded = []
    for level in range(1, depth):
        if not policy.deeper(pool.scores, scores, level):
            break
        expanded.append(frontier)
        hidden = drafter.step(tokens, hidden, level - 1, ancestors)  # [B, k, H]
        child_scores, child_tokens = drafter.propose(hidden, k)  # [B, k, k]
        child_scores = scores[..., None] + policy.confidence(child_scores, level + 1)
        child_scores = child_scores.flatten(1)  # [B, k * k]
        child_tokens = child_tokens.flatten(1)
        first_child = 1 + len(pool.depths)
        pool.add(child_tokens, frontier.repeat_interleave(k, dim=1), child_scores, level + 1)
        if level + 1 < depth:
            scores, best = child_scores.topk(k, dim=1)  # [B, k]
            tokens = child_tokens.gather(1, best)
            frontier = first_child + best
            parents = (best // k)[..., None]  # [B, k, 1]
            hidden = hidden.gather(1, parents.expand(-1, -1, hidden.shape[-1]))
            inherited = ancestors.gather(1, parents.expand_as(ancestors))
            ancestors = torch.cat([inherited, own], dim=-1)

    # 3) the best of all proposals
    scores = torch.cat(pool.scores, dim=1)
    tree = best_nodes(
        root,
        torch.cat(pool.tokens, dim=1),
        torch.cat(pool.parents, dim=1),
        upload(pool.depths, device),
        scores,
        policy.size(scores),
    )
    return Draft(tree, (1, *[k] * len(expanded)), tuple(expanded))


def grow_static(
    drafter, root: torch.Tensor, parents: Sequence[int], ranks: Sequence[int], depth: int
) -> Draft:
    """The tree in which node i is its parent's guess number ranks[i], cut off below `depth`.

    Sequoia's fixed trees (arXiv 2402.12374). Node 0 is the root, and parents come before their
    children. Only nodes that have children are run, a level at a time.
    """
    shape = fixed_shape(tuple(parents), tuple(ranks), depth, root.device)
    batch = len(root)
    tokens = root[:, None].repeat(1, shape.parents.shape[1])  # [B, N]
    offers = {}
    widths = [1]
    outputs = drafter.extend()[:, None]  # [B, k, H] of the k nodes with children of a level
    for number, level in enumerate(shape.levels):
        _, guesses = drafter.propose(outputs, level.width)  # [B, k, W]
        if drafter.sampler is not None:
            for place, node in enumerate(level.above):
                offers[node] = drafter.sampler.offered[:, place]  # [B, U]
        last = level.first + len(level.ranks)
        tokens[:, level.first : last] = guesses[:, level.parents, level.ranks]
        if level.inner is not None:
            assert level.seen is not None, "nodes with children see something"
            seen = level.seen.expand(batch, -1, -1)
            outputs = outputs[:, level.inner_parents]
            outputs = drafter.step(tokens[:, level.inner], outputs, number, seen)
            widths.append(len(level.inner))
    depths = shape.depths.expand(batch, -1)
    tree = Tree(tokens, shape.parents.expand(batch, -1), depths, offers)
    return Draft(tree, tuple(widths))
