"""Who proposes. `Drafter` grows a tree below the newest tokens; `EagleDrafter` does it with a draft head.

B batch, M newly committed tokens (padded), k expanded nodes, H hidden, U draft vocabulary. Rows are aligned left. Slot p of
the head holds the state of token p and the embedding of token p + 1, at RoPE position p.
"""

from contextlib import nullcontext

import torch

from eagle_hf.decoding.cache import DraftCache, TreeCache
from eagle_hf.decoding.compiling import compiled
from eagle_hf.decoding.growth import grow
from eagle_hf.decoding.stats import Stopwatch
from eagle_hf.decoding.tree import Tree, root_alone
from eagle_hf.decoding.upload import upload
from eagle_hf.decoding.window import SlotMap, Window
from eagle_hf.head.attention import tree_attention, ttt_attention
from eagle_hf.head.configuration import TreeConfig
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.planning.policy import FixedPlan
from eagle_hf.target import aux_layer_ids, unwrap


def left_aligned(visible: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(order [B, S] that brings the real slots of bool [B, S] to the left, how many there are [B])."""
    return (~visible).long().argsort(dim=1, stable=True), visible.sum(1)


def padded_rows(rows: list[list[int]], device, least: int = 1) -> torch.Tensor:
    """Rows of different lengths as one tensor [B, M], zeros behind the shorter ones; M is at least `least`."""
    width = max(least, max(len(row) for row in rows))
    return upload([row + [0] * (width - len(row)) for row in rows], device)


def newest(output: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """The output [B, H] of each row's last real token, of `counts` [B] in [B, M, H]; of any in a finished row, whose trees go unread."""
    last = (counts - 1).clamp(min=0)[:, None, None]
    return output.gather(1, last.expand(-1, 1, output.shape[-1]))[:, 0]


def joined(waiting: list[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
    """Tokens of several rounds as one: each entry holds counts [B] and tensors [B, M, ...] padded on the right."""
    if len(waiting) == 1:
        return waiting[0]
    real = [
        torch.arange(part.shape[1], device=part.device) < counts[:, None]
        for counts, part, *_ in waiting
    ]
    order, counts = left_aligned(torch.cat(real, dim=1))
    order = order[:, : max(1, int(counts.max()))]
    parts = [torch.cat(part, dim=1) for part in list(zip(*waiting))[1:]]
    return counts, *(
        part.gather(
            1, order.view(*order.shape, *[1] * (part.dim() - 2)).expand(-1, -1, *part.shape[2:])
        )
        for part in parts
    )


class Drawing:
    """Draw drafts from the drafter's distribution, siblings without replacement: the k largest of log q + Gumbel noise, in order.

    `offered` [..., U] is the distribution that the last proposals were drawn from.
    """

    def __init__(self, temperature: float, seed: int, device):
        self.temperature, self.generator = temperature, torch.Generator(device).manual_seed(seed)
        self.offered = None

    def __call__(self, log_probs: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        log_probs = (log_probs / self.temperature).log_softmax(-1)
        self.offered = log_probs.exp()
        noise = torch.empty_like(log_probs).exponential_(generator=self.generator).log_()
        ids = (log_probs - noise).topk(k, dim=-1).indices
        return log_probs.gather(-1, ids), ids


class Drafter:
    """What the loop needs of whoever proposes: `start`, then `draft_tree` and `accept` every round.

    A round runs the drafter once over the newly committed tokens (`extend`) and once per further level of the tree (`step`).
    """

    aux_layer_ids: list[
        int
    ] = []  # the target's streams that `start` and `accept` are given, side by side

    def __init__(
        self,
        tree: TreeConfig,
        watch: Stopwatch,
        window: Window | None = None,
        capacity: int | None = None,
    ):
        """capacity: slots that its cache begins with and keeps; None lets it grow."""
        self.tree, self.watch, self.capacity = tree, watch, capacity
        self.least = (
            1 if capacity is None else tree.depth + 1
        )  # tokens of a round, padding included
        self.plan = FixedPlan(
            tree.depth, tree.top_k, tree.nodes, tree.parents and (tree.parents, tree.ranks)
        )
        self.cache, self.slots = (
            DraftCache(),
            SlotMap(window, 2 * (tree.depth + 1), capacity and (capacity, tree.run)),
        )
        self.drawing = self.draft_to_target = (
            None  # a Drawing where drafts are drawn; target ids [U] of what log_probs are for
        )
        self.waiting = []  # of every round not yet read: counts [B], tokens [B, M] and what else the drafter reads

    def watching(self, visible: torch.Tensor):
        """The block in which the target reads the prompt, whose real slots are bool [B, S]."""
        return nullcontext()

    def start(
        self,
        input_ids: torch.Tensor,
        visible: torch.Tensor,
        aux: torch.Tensor | None,
        first: torch.Tensor,
    ) -> None:
        """Take the prompt [B, S], which of its slots are real (bool [B, S]), its states, and the first token [B]."""
        raise NotImplementedError

    def accept(
        self, aux: torch.Tensor | None, paths: list[list[int]], tokens: list[list[int]]
    ) -> None:
        """Take a round's outcome: states of the tree [B, N, 3H], nodes kept and tokens emitted, row by row."""
        raise NotImplementedError

    def keep_rows(self, index: torch.Tensor) -> None:
        """Let only these rows of the batch stay."""
        self.waiting = [tuple(part[index] for part in entry) for entry in self.waiting]
        if self.slots.lengths is not None:
            self.slots.keep_rows(index)
            self.cache.batch_select_indices(index)

    def extend(self) -> torch.Tensor:
        """Run over the pending tokens; the output [B, H] at each row's newest."""
        raise NotImplementedError

    def step(
        self, tokens: torch.Tensor, hidden: torch.Tensor, level: int, ancestors: torch.Tensor
    ) -> torch.Tensor:
        """Run over k nodes [B, k] of a level, whose parents' outputs are `hidden` [B, k, H]; the output [B, k, H].

        ancestors: bool [B, k, n], which of all n nodes run so far, these k the last, each may see.
        """
        raise NotImplementedError

    def log_probs(self, hidden: torch.Tensor) -> torch.Tensor:
        """Of every token the drafter knows [..., U], after outputs [..., H]; float32."""
        raise NotImplementedError

    def propose(self, hidden: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and target ids [..., k] of the k best drafts after outputs [..., H], or of k drawn ones, in their order."""
        with self.watch.phase("head"):
            scores = self.log_probs(hidden)
        scores = scores.nan_to_num(nan=-torch.inf)  # a broken head drafts badly, not wrongly
        if self.drawing is None:
            scores, ids = scores.topk(k, dim=-1)
        else:
            scores, ids = self.drawing(scores, k)
        return scores, ids if self.draft_to_target is None else self.draft_to_target[ids]

    def draft_tree(self, root: torch.Tensor, max_depth: int, lengths: list[int] = ()) -> Tree:
        """A tree below the newest tokens `root` [B], at most `max_depth` levels deep; lengths: of the rows still running."""
        depth = min(self.tree.depth, max_depth) if self.capacity is None else self.tree.depth
        if not self.plan.begin(lengths, depth):
            if (
                self.slots.window
                and sum(tokens.shape[1] for _, tokens, *_ in self.waiting) > self.tree.depth
            ):
                self.extend()  # before more wait than a ring has room for
            return root_alone(root)
        return grow(self, root, self.plan, depth)


class EagleDrafter(Drafter):
    """The draft head on top of the target's own states (EAGLE-3), growing EAGLE-2's trees."""

    def __init__(
        self, head, target, tree: TreeConfig, watch: Stopwatch, capacity: int | None = None
    ):
        super().__init__(tree, watch, Window(*head.window) if head.window else None, capacity)
        self.head, self.embed = head, unwrap(target).get_input_embeddings()
        self.aux_layer_ids = aux_layer_ids(target, head.config)
        self.draft_to_target = head.draft_to_target
        self._step = self._forward if capacity is None else compiled(self._forward, head.device)
        self.vocabulary = len(self.draft_to_target)

    def start(self, input_ids, visible, aux, first):
        order, counts = left_aligned(visible)
        tokens = input_ids.gather(1, order).roll(-1, dims=1)
        tokens.scatter_(1, counts[:, None] - 1, first[:, None])
        self.waiting = [
            (counts, tokens, aux.gather(1, order[..., None].expand(-1, -1, aux.shape[-1])))
        ]

    def accept(self, aux, paths, tokens):
        nodes, counts = (
            padded_rows(paths, aux.device, self.least),
            upload([len(path) for path in paths], aux.device),
        )
        states = aux.gather(1, nodes[..., None].expand(-1, -1, aux.shape[-1]))
        self.waiting.append((counts, padded_rows(tokens, aux.device, self.least), states))

    def log_probs(self, hidden):
        return self.head.logits(hidden).float().log_softmax(-1)

    def extend(self):
        counts, tokens, aux = joined(self.waiting)
        self.waiting = []
        with self.watch.phase("head"):
            hidden = self.head.fuse(aux.to(self.head.device, self.head.dtype))
        if self.slots.lengths is None:
            self.cache.place_prompt(self.slots.start(counts))
            positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
            output = self._run_head(self._forward, tokens, hidden, positions, None)
        else:
            slots, positions, seen = self.slots.extend(counts, tokens.shape[1])
            self._place(slots, seen)
            output = self._run_head(self._step, tokens, hidden, positions, seen)
        return newest(output, counts)

    def step(self, tokens, hidden, level, ancestors):
        slots, positions, seen = self.slots.level(level, ancestors)
        self._place(slots, seen)
        return self._run_head(self._step, tokens, hidden, positions, seen)

    def _place(self, slots, seen) -> None:
        self.cache.turn_sinks(self.slots, self.head.rotary_emb)
        self.cache.place(slots, seen.shape[-1])

    def _run_head(self, forward, tokens, hidden, positions, seen) -> torch.Tensor:
        with self.watch.phase("head"):
            return forward(tokens, hidden, positions, seen)

    def _forward(self, tokens, hidden, positions, seen) -> torch.Tensor:
        """One pass of the head; seen: bool [B, M, T], None for a prompt, whose rows are padded on the right."""
        implementation = self.head.config._attn_implementation

        def attend(query, key, value):
            key, value = self.cache.update(key, value)
            if seen is None:  # no mask of S x S needed
                return ttt_attention(query, [key], [value], implementation)
            return tree_attention(query, key, value, seen[:, None], implementation)

        embeddings = self.embed(tokens).to(hidden.device, hidden.dtype)
        return self.head.step(embeddings, hidden, positions, attend)


def bind(
    assistant,
    target,
    cache: TreeCache,
    watch: Stopwatch,
    tree: TreeConfig | None = None,
    policy=None,
) -> Drafter:
    """The drafter of an assistant for one run on a target, whose committed keys and values are in `cache`.

    tree, policy: of a head whose trees are chosen by machine; else the assistant's own.
    """
    if isinstance(assistant, Eagle3DraftHead):
        drafter = EagleDrafter(assistant, target, tree or assistant.tree, watch, cache.capacity)
    else:
        drafter = assistant.drafter(target, cache, watch)
    if cache.buffers is not None:
        drafter.cache.fixed = cache.buffers, sum(drafter.slots.fixed)
    if policy is not None:
        drafter.plan = policy
        return drafter
    if tree is not None:
        return drafter
    if assistant.tree.acceptance == "rejection":
        chain = tuple(
            range(-1, assistant.tree.depth)
        )  # a chain as a fixed shape: nothing may be chosen by its own probability
        drafter.plan.shape = drafter.plan.shape or ((0, *chain[1:]), (0,) * len(chain))
    if assistant.tree.needs_plan:
        drafter.plan = assistant.plan.policy(assistant.tree)
    return drafter
