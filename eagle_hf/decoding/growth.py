"""How a tree grows below the newest tokens: by the drafter's probabilities, or in a shape fixed beforehand.

B batch, k nodes run together, H hidden, W children proposed per node. A node that is run writes its keys behind those of
the nodes run before it; nodes that are only proposed are never run.
"""

from collections.abc import Sequence

import torch

from eagle_hf.decoding.tree import Tree, best_nodes


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
    hidden, frontier = hidden[:, None].expand(-1, k, -1), torch.arange(1, k + 1, device=device).expand(batch, -1)
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
            ancestors = torch.cat([ancestors.gather(1, parents[..., None].expand_as(ancestors)), own], dim=-1)
        depths += [level + 1] * (k * k)
    tokens, parents, scores = (torch.cat(parts, dim=1) for parts in zip(*pool))
    return best_nodes(root, tokens, parents, torch.tensor(depths, device=device), scores, plan.size(scores))


def grow_static(drafter, root: torch.Tensor, parents: Sequence[int], ranks: Sequence[int], depth: int) -> Tree:
    """The tree in which node i is its parent's guess number ranks[i] (Sequoia, arXiv 2402.12374), cut off below `depth`.

    Node 0 is the root; parents come before their children. Only nodes that have children are run, a level at a time.
    """
    levels = [[0]]
    while len(levels) <= depth and (below := [n for n, parent in enumerate(parents) if n and parent in levels[-1]]):
        levels.append(sorted(below, key=lambda node: (levels[-1].index(parents[node]), ranks[node])))  # siblings as they are drawn
    shape, batch = [node for level in levels for node in level], len(root)
    place = {node: number for number, node in enumerate(shape)}
    tokens = torch.zeros(batch, len(shape), dtype=torch.long, device=root.device)
    tokens[:, 0] = root
    ancestors = ancestors_of([place[parents[node]] for node in shape])
    offers, inner, outputs, run = {}, [0], drafter.extend()[:, None], []  # inner: nodes whose outputs [B, k, H] `outputs` are
    for level, below in enumerate(levels[1:]):
        wanted = [ranks[node] for node in below]
        rank = torch.tensor(wanted, device=root.device)
        parent = torch.tensor([inner.index(parents[node]) for node in below], device=root.device)
        _, guesses = drafter.propose(outputs, max(wanted) + 1)  # [B, k, W]
        if drafter.drawing is not None:
            offers |= {place[node]: drafter.drawing.offered[:, number] for number, node in enumerate(inner)}
        start = place[below[0]]
        tokens[:, start : start + len(below)] = guesses[:, parent, rank]
        inner_below = [node for node in below if level + 2 < len(levels) and node in map(parents.__getitem__, levels[level + 2])]
        if inner_below:
            where = [place[node] for node in inner_below]
            run += where
            seen = ancestors[where][:, run].to(root.device).expand(batch, -1, -1)
            hidden = outputs[:, parent[[below.index(node) for node in inner_below]]]
            inner, outputs = inner_below, drafter.step(tokens[:, where], hidden, level, seen)
    parents = torch.tensor([place[parents[node]] for node in shape], device=root.device)
    depths = torch.tensor([number for number, level in enumerate(levels) for _ in level], device=root.device)
    return Tree(tokens, parents.expand(batch, -1), depths.expand(batch, -1), offers)


def ancestors_of(parents: Sequence[int]) -> torch.Tensor:
    """Bool [N, N]: [i, j] tells whether node j is node i or one of its ancestors; parents precede their children."""
    mask = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        mask[node] |= mask[parent]
    return mask
