"""How a tree grows below the newest tokens: by the drafter's probabilities, or in a shape fixed beforehand.

B batch, k nodes run together, H hidden, W children proposed per node. A node that is run writes its keys behind those of
the nodes run before it; nodes that are only proposed are never run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from eagle_hf.decoding.tree import Tree, best_nodes
from eagle_hf.decoding.upload import upload


def grow(drafter, root: torch.Tensor, plan, depth: int) -> Tree:
    """The tree that a plan wants below the newest tokens `root` [B], at most `depth` levels deep."""
    if plan.shape is not None:
        return grow_static(drafter, root, *plan.shape, depth)
    return grow_dynamic(drafter, root, plan, depth)


def grow_dynamic(drafter, root: torch.Tensor, plan, depth: int) -> Tree:
    """EAGLE-2's tree (arXiv 2406.16858, section 4): the k best of each level are run, the best of all proposals kept.

    The plan says how sure a proposal is, whether another level is drafted (at most `depth`) and how many nodes are kept.
    """
    k, batch, device = min(plan.k, drafter.vocabulary), len(root), root.device
    hidden = drafter.extend()  # [B, H]
    scores, tokens = drafter.propose(hidden, k)  # [B, k]
    scores = plan.confidence(scores, 1)
    pool, depths = [(tokens, torch.zeros_like(tokens), scores)], [1] * k
    hidden, frontier = (
        hidden[:, None].expand(-1, k, -1),
        torch.arange(1, k + 1, device=device).expand(batch, -1),
    )
    own = torch.eye(k, dtype=torch.bool, device=device).expand(batch, -1, -1)
    ancestors = own
    for level in range(1, depth):
        if not plan.deeper([part[2] for part in pool], scores, level):
            break
        hidden = drafter.step(tokens, hidden, level - 1, ancestors)  # [B, k, H]
        child_scores, child_tokens = drafter.propose(hidden, k)  # [B, k, k]
        child_scores = (scores[..., None] + plan.confidence(child_scores, level + 1)).flatten(1)
        child_tokens = child_tokens.flatten(1)
        pool.append((child_tokens, frontier.repeat_interleave(k, dim=1), child_scores))
        if level + 1 < depth:
            scores, best = child_scores.topk(k, dim=1)
            parents = best // k
            tokens, frontier = child_tokens.gather(1, best), len(depths) + 1 + best
            hidden = hidden.gather(1, parents[..., None].expand(-1, -1, hidden.shape[-1]))
            ancestors = torch.cat(
                [ancestors.gather(1, parents[..., None].expand_as(ancestors)), own], dim=-1
            )
        depths += [level + 1] * (k * k)
    tokens, parents, scores = (torch.cat(parts, dim=1) for parts in zip(*pool))
    return best_nodes(root, tokens, parents, upload(depths, device), scores, plan.size(scores))


def grow_static(
    drafter, root: torch.Tensor, parents: Sequence[int], ranks: Sequence[int], depth: int
) -> Tree:
    """The tree in which node i is its parent's guess number ranks[i] (Sequoia, arXiv 2402.12374), cut off below `depth`.

    Node 0 is the root; parents come before their children. Only nodes that have children are run, a level at a time.
    """
    shape, batch = fixed_shape(tuple(parents), tuple(ranks), depth, root.device), len(root)
    tokens = root[:, None].repeat(1, shape.parents.shape[1])
    offers, outputs = (
        {},
        drafter.extend()[:, None],
    )  # [B, k, H] of the k nodes with children of a level
    for number, level in enumerate(shape.levels):
        _, guesses = drafter.propose(outputs, level.width)  # [B, k, W]
        if drafter.drawing is not None:
            offers |= {
                node: drafter.drawing.offered[:, place] for place, node in enumerate(level.above)
            }
        tokens[:, level.first : level.first + len(level.ranks)] = guesses[
            :, level.parents, level.ranks
        ]
        if level.inner is not None:
            outputs = drafter.step(
                tokens[:, level.inner],
                outputs[:, level.inner_parents],
                number,
                level.seen.expand(batch, -1, -1),
            )
    return Tree(tokens, shape.parents.expand(batch, -1), shape.depths.expand(batch, -1), offers)


@dataclass(frozen=True)
class Level:
    """A level of n nodes below the root, j of them with children; nodes are numbered level by level, siblings by rank.

    above: numbers of the k nodes that it hangs from; first: the number of its own first; width: guesses needed of each of the k;
    parents, ranks [n]: the guess that each node is, by place among the k and rank; inner, inner_parents [j]: the nodes with
    children, by number and by their parents' place, None on the last level; seen: bool [j, .], what they see of all nodes run so far.
    """

    above: list[int]
    first: int
    width: int
    parents: torch.Tensor
    ranks: torch.Tensor
    inner: torch.Tensor | None
    inner_parents: torch.Tensor | None
    seen: torch.Tensor | None


@dataclass(frozen=True)
class Shape:
    """A fixed tree on a device: its levels below the root, and parents and depths [1, N] of its nodes."""

    levels: list[Level]
    parents: torch.Tensor
    depths: torch.Tensor


@lru_cache(maxsize=64)
def fixed_shape(
    parents: tuple[int, ...], ranks: tuple[int, ...], depth: int, device: torch.device
) -> Shape:
    """The tree of these parents and ranks, down to `depth`, as grow_static follows it; made once, for threads on any stream."""
    levels = [[0]]
    while len(levels) <= depth and (
        below := [n for n, parent in enumerate(parents) if n and parent in levels[-1]]
    ):
        levels.append(
            sorted(below, key=lambda node: (levels[-1].index(parents[node]), ranks[node]))
        )  # siblings as they are drawn
    number = {node: place for place, node in enumerate(node for level in levels for node in level)}
    ancestors = ancestors_of([number[parents[node]] for node in number])
    above, run, found = [0], [], []
    for level, further in zip(levels[1:], [*levels[2:], []]):
        inner = [node for node in level if node in {parents[child] for child in further}]
        run += [number[node] for node in inner]
        tensors = [[above.index(parents[node]) for node in level], [ranks[node] for node in level]]
        if inner:
            tensors += (
                [number[node] for node in inner],
                [above.index(parents[node]) for node in inner],
                ancestors[run[-len(inner) :]][:, run].tolist(),
            )
        tensors = [torch.tensor(values, device=device) for values in tensors] + [None] * (
            5 - len(tensors)
        )
        found.append(
            Level(
                [number[node] for node in above],
                number[level[0]],
                1 + max(ranks[node] for node in level),
                *tensors,
            )
        )
        above = inner
    depths = [place for place, level in enumerate(levels) for _ in level]
    return Shape(
        found,
        torch.tensor([[number[parents[node]] for node in number]], device=device),
        torch.tensor([depths], device=device),
    )


def ancestors_of(parents: Sequence[int]) -> torch.Tensor:
    """Bool [N, N]: [i, j] tells whether node j is node i or one of its ancestors; parents precede their children."""
    mask = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        mask[node] |= mask[parent]
    return mask
