"""Who proposes. `EagleDrafter`: the draft head on top of the target's own states.

B batch, M newly committed tokens (padded), k expanded nodes, H hidden, U draft vocabulary. Head slot p holds the
state of token p and the embedding of token p + 1, at RoPE position p; rows are aligned left, so slot equals position.
"""

import torch

from eagle_hf.decoding.cache import DraftCache
from eagle_hf.decoding.stats import Stopwatch
from eagle_hf.decoding.tree import Tree, best_nodes
from eagle_hf.head.attention import tree_attention, ttt_attention
from eagle_hf.head.configuration import TreeConfig
from eagle_hf.target import unwrap


class EagleDrafter:
    """Drafts a tree per round: one head pass over the newly committed tokens, then one per level (EAGLE-2 trees)."""

    def __init__(self, head, target, tree: TreeConfig, watch: Stopwatch):
        self.head, self.tree, self.watch = head, tree, watch
        self.embed = unwrap(target).get_input_embeddings()
        self.draft_to_target = head.draft_to_target
        self.cache = DraftCache()
        self.lengths = None  # [B] committed head slots
        self._pending = None  # (aux states [B, M, 3H], next tokens [B, M], counts [B])

    def start(self, input_ids: torch.Tensor, visible: torch.Tensor, aux: torch.Tensor, first: torch.Tensor) -> None:
        """Take the prompt [B, S], which of its slots are real (bool [B, S]), its states, and the first token [B]."""
        order = (~visible).long().argsort(dim=1, stable=True)  # real tokens to the left, in order
        counts = visible.sum(1)
        tokens = input_ids.gather(1, order).roll(-1, dims=1)
        tokens.scatter_(1, counts[:, None] - 1, first[:, None])
        self._pending = aux.gather(1, order[..., None].expand(-1, -1, aux.shape[-1])), tokens, counts
        self.lengths = torch.zeros_like(counts)

    def accept(self, aux: torch.Tensor, paths: list[list[int]], tokens: list[list[int]]) -> None:
        """Take a round's outcome: states of the tree [B, N, 3H], nodes kept and tokens emitted, row by row."""
        width = max(1, max(len(path) for path in paths))
        nodes = torch.tensor([path + [0] * (width - len(path)) for path in paths], device=aux.device)
        following = [row + [0] * (width - len(row)) for row in tokens]
        counts = torch.tensor([len(path) for path in paths], device=aux.device)
        states = aux.gather(1, nodes[..., None].expand(-1, -1, aux.shape[-1]))
        self._pending = states, torch.tensor(following, device=aux.device), counts

    def draft_tree(self, root: torch.Tensor, max_depth: int) -> Tree:
        """A tree below the newest tokens `root` [B], at most `max_depth` levels deep."""
        depth, k = min(self.tree.depth, max_depth), min(self.tree.top_k, len(self.draft_to_target))
        if depth < 1:
            zero = torch.zeros_like(root)[:, None]
            return Tree(root[:, None], zero, zero)
        hidden = self._extend()  # [B, H]
        scores, tokens = self._propose(hidden, k)  # [B, k]
        batch, arange = len(root), torch.arange(1, k + 1, device=root.device)
        pool = [(tokens, torch.zeros_like(tokens), scores)]
        hidden, frontier = hidden[:, None].expand(-1, k, -1), arange.expand(batch, -1)
        own = torch.eye(k, dtype=torch.bool, device=root.device).expand(batch, -1, -1)
        ancestors, size = own, k
        for level in range(1, depth):
            hidden = self._step(tokens, hidden, level - 1, ancestors)  # [B, k, H]
            child_scores, child_tokens = self._propose(hidden, k)  # [B, k, k]
            child_scores = (scores[..., None] + child_scores).flatten(1)
            child_tokens = child_tokens.flatten(1)
            pool.append((child_tokens, frontier.repeat_interleave(k, dim=1), child_scores))
            if level + 1 < depth:
                scores, best = child_scores.topk(k, dim=1)
                parents = best // k
                tokens, frontier = child_tokens.gather(1, best), size + 1 + best
                hidden = hidden.gather(1, parents[..., None].expand(-1, -1, hidden.shape[-1]))
                ancestors = torch.cat([ancestors.gather(1, parents[..., None].expand_as(ancestors)), own], dim=-1)
            size += k * k
        depths = torch.tensor([1] * k + [2 + i // (k * k) for i in range((depth - 1) * k * k)], device=root.device)
        tokens, parents, scores = (torch.cat(parts, dim=1) for parts in zip(*pool))
        return best_nodes(root, tokens, parents, depths, scores, self.tree.nodes)

    def _propose(self, hidden: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and target ids [..., k] of the k best drafts after states [..., H]."""
        with self.watch.phase("head"):
            scores = self.head.logits(hidden).float().log_softmax(-1)
        scores, ids = scores.nan_to_num(nan=-torch.inf).topk(k, dim=-1)  # a broken head drafts badly, not wrongly
        return scores, self.draft_to_target[ids]

    def _run_head(self, tokens, hidden, positions, attend) -> torch.Tensor:
        with self.watch.phase("head"):
            embeddings = self.embed(tokens).to(hidden.device, hidden.dtype)
            return self.head.step(embeddings, hidden, positions, attend)

    def _extend(self) -> torch.Tensor:
        """Run the head over the pending tokens with the target's states; its output [B, H] at each row's newest."""
        aux, tokens, counts = self._pending
        width, prefilling = tokens.shape[1], not self.lengths.any()
        with self.watch.phase("head"):
            hidden = self.head.fuse(aux.to(self.head.device, self.head.dtype))
        slots = self.lengths[:, None] + torch.arange(width, device=tokens.device)
        length = int(self.lengths.max()) + width
        implementation = self.head.config._attn_implementation

        def attend(query, key, value):
            keys, values = self.cache.write(slots, key, value, length)
            if prefilling:  # no mask of S x S needed: rows are padded on the right
                return ttt_attention(query, [key], [value], implementation)
            mask = torch.arange(length, device=slots.device) <= slots[..., None]
            return tree_attention(query, keys, values, mask[:, None], implementation)

        output = self._run_head(tokens, hidden, slots, attend)
        newest = (counts - 1).clamp(min=0)[:, None, None]  # a finished row has none; its trees go unread
        last = output.gather(1, newest.expand(-1, 1, output.shape[-1]))[:, 0]
        self.lengths = self.lengths + counts
        return last

    def _step(self, tokens, hidden, level: int, ancestors) -> torch.Tensor:
        """Run the head over k nodes of one tree level [B, k], each seeing the committed slots and its ancestors."""
        base, width = int(self.lengths.max()), tokens.shape[1]
        committed = torch.arange(base, device=tokens.device) < self.lengths[:, None]
        mask = torch.cat([committed[:, None].expand(-1, width, -1), ancestors], dim=-1)[:, None]
        slots = (base + level * width + torch.arange(width, device=tokens.device)).expand(len(tokens), -1)
        positions = (self.lengths + level)[:, None].expand(-1, width)

        def attend(query, key, value):
            keys, values = self.cache.write(slots, key, value, base + (level + 1) * width)
            return tree_attention(query, keys, values, mask, self.head.config._attn_implementation)

        return self._run_head(tokens, hidden, positions, attend)
