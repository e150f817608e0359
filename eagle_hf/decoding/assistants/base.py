"""The protocol of assistants and drafters.

An assistant is what a user passes to `generate(assistant_model=...)`. A run asks it three things:
whether it fits the target (`check`), what it is (`fingerprint`), and for a drafter (`drafter`),
which proposes trees for that one run.

B batch, M newly committed tokens (padded), k nodes of a level, n nodes run so far, H hidden,
S prompt slots, U draft vocabulary.
"""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch

from eagle_hf.decoding.caches.drafter import DraftCache
from eagle_hf.decoding.caches.target import TargetCache
from eagle_hf.decoding.compiling import as_compiled, compiles_any_size
from eagle_hf.decoding.growth import Draft, grow
from eagle_hf.decoding.pending import Pending
from eagle_hf.decoding.sampler import DraftSampler
from eagle_hf.decoding.shapes import chain_shape
from eagle_hf.decoding.snapkv import Selection
from eagle_hf.decoding.stats import DecodingStats, Stopwatch
from eagle_hf.decoding.tree import root_alone
from eagle_hf.decoding.window import SlotMap, Window
from eagle_hf.head.trees import TreeConfig
from eagle_hf.planning.plan import Plan
from eagle_hf.planning.policies import AdaptivePolicy, FixedPolicy
from eagle_hf.provenance import machine, weights_fingerprint

Policy = FixedPolicy | AdaptivePolicy


def choose_policy(tree: TreeConfig, plan: Plan | None) -> Policy:
    """How much a run drafts every round, within the bounds of a tree; a plan where it needs one."""
    if tree.needs_plan:
        assert plan is not None, f"the tree policy {tree.policy!r} needs a plan"
        return plan.policy(tree)
    shape = None
    if tree.parents is not None and tree.ranks is not None:
        shape = (tree.parents, tree.ranks)
    elif tree.acceptance == "rejection":
        # nothing that is drawn may be chosen by its own probability: a chain as a fixed shape
        shape = chain_shape(tree.depth)
    return FixedPolicy(tree.depth, tree.top_k, tree.nodes, shape)


@dataclass(frozen=True)
class DraftContext:
    """What a drafter is made for: one run on a target.

    Attributes:
        target: the model that verifies.
        cache: the target's cache of this run.
        tree: bounds of the trees.
        policy: how much is drafted within them.
        watch: where the drafter's seconds go.
        sampler: draws the drafts where they are accepted by rejection.
    """

    target: Any
    cache: TargetCache
    tree: TreeConfig
    policy: Policy
    watch: Stopwatch = field(default_factory=Stopwatch)
    sampler: DraftSampler | None = None

    @classmethod
    def without_run(cls, target, cache: TargetCache, tree: TreeConfig) -> "DraftContext":
        """The context of a drafter that is measured by itself, with a tree that needs no plan."""
        tree = as_compiled(tree, target)
        return cls(target, cache, tree, choose_policy(tree, None))


class Assistant(ABC):
    """What drafts for a target, independent of any run.

    Attributes:
        tree: the trees it drafts; set by the user.
        plan: measured costs and acceptance, for policies that need them; set by the user.
        last_run: statistics of the last `generate` call.
        chooses_by_machine: whether the machine's measured costs choose the tree, and not `tree`.
    """

    tree: TreeConfig
    plan: Plan | None = None
    last_run: DecodingStats | None = None
    chooses_by_machine: bool = False

    @property
    def owner(self):
        """The object that the user passed."""
        return self

    @property
    def buffer_owner(self):
        """The object by which buffers are kept from call to call."""
        return self.owner

    @property
    def call(self) -> str:
        """How a user asks for it, in the messages of refusals."""
        return f"generate(assistant_model=<{type(self.owner).__name__}>)"

    @property
    def reads_window_only(self) -> bool:
        """Whether it drafts from a part of a long text."""
        return False

    @property
    def foreign_tokenizer_remedy(self) -> str:
        """What to do where the draft model has another tokenizer, as the end of a sentence."""
        return ""

    @abstractmethod
    def check(self, target) -> None:
        """Raise a ValueError for a target that this assistant cannot draft for."""

    def check_rows(self, rows: int) -> None:
        """Raise a ValueError for a batch of another size than this assistant was made for."""
        return

    @abstractmethod
    def drafter_facts(self, target) -> dict[str, str]:
        """`drafter_fingerprint` and `drafter_dtype` on this target."""

    @abstractmethod
    def drafter(self, context: DraftContext) -> "Drafter":
        """The drafter of one run."""

    def fingerprint(self, target) -> dict:
        """The facts that a cost table holds for, see planning.cost.IDENTITY."""
        facts = {
            "target_fingerprint": weights_fingerprint(target),
            "compiled": compiles_any_size(self.tree, target),
        }
        return facts | self.drafter_facts(target) | machine(target)

    def with_tree(self, tree: TreeConfig) -> "Assistant":
        """The same assistant, drafting another tree."""
        other = copy.copy(self)
        other.tree = tree
        return other

    def find_plan(self) -> Plan | None:
        """The plan set by the user, or one saved beside the assistant; None without either.

        Raises:
            ValueError: where the saved one is damaged.
        """
        return self.plan


class Drafter(ABC):
    """Proposes the trees of one run: `start`, then `draft` and `accept` every round.

    A round runs the drafter once over the newly committed tokens (`extend`) and once for each
    further level of the tree (`step`).

    Attributes:
        model: the module that drafts.
        aux_layer_ids: whose inputs, side by side, are the aux hidden states that `start` and
            `accept` are given; empty for drafters that read none.
        draft_to_target: target ids [U] of what `log_probs` are for; None where they are the same.
        vocabulary: U.
        drafts: whether it proposes anything. Without drafts all rows go on together.
    """

    drafts = True

    aux_layer_ids: tuple[int, ...] = ()
    draft_to_target: torch.Tensor | None = None
    model: Any
    vocabulary: int

    def __init__(self, context: DraftContext, window: Window | None = None):
        self.tree = context.tree
        self.policy = context.policy
        self.watch = context.watch
        self.sampler = context.sampler
        self.capacity = context.cache.capacity
        # a round commits at most a branch and the bonus token
        most_new = self.tree.depth + 1
        self.least_width = 1  # of the tokens of a round, padding included
        fixed = None
        if self.capacity is not None:
            self.least_width = most_new
            fixed = (self.capacity, self.tree.max_expanded_nodes)
        self.slots = SlotMap(window, 2 * most_new, fixed)
        pool = context.cache.pool
        self.cache = DraftCache(pool, self.slots.size if pool is not None else 0)
        self.pending: list[Pending] = []

    def prefill_selection(self, visible: torch.Tensor) -> Selection | None:
        """The choice of prompt tokens to record while the target reads the prompt.

        visible: bool [B, S], the prompt's real slots.
        """
        return None

    @abstractmethod
    def start(
        self,
        input_ids: torch.Tensor,
        visible: torch.Tensor,
        aux: torch.Tensor | None,
        first: torch.Tensor,
        selection: Selection | None,
        shift: torch.Tensor | None = None,
    ) -> None:
        """Take the prompt, which the target has read.

        Args:
            input_ids: [B, S].
            visible: bool [B, S], the real slots.
            aux: the target's aux hidden states [B, S, 3H].
            first: the first token [B] after the prompt.
            selection: what `prefill_selection` gave, recorded.
            shift: what the target adds to the positions of text behind each prompt [B], because
                images take fewer positions than tokens; None where it has one axis of positions.
        """

    @abstractmethod
    def accept(
        self, aux: torch.Tensor | None, paths: list[list[int]], tokens: list[list[int]]
    ) -> None:
        """Take a round's outcome.

        Args:
            aux: the target's aux hidden states [B, N, 3H] at the tree's nodes.
            paths: the nodes that each row keeps.
            tokens: the tokens that each row emitted.
        """

    @abstractmethod
    def extend(self) -> torch.Tensor:
        """Run over the pending tokens; the output [B, H] at each row's newest."""

    @abstractmethod
    def step(
        self, tokens: torch.Tensor, hidden: torch.Tensor, level: int, ancestors: torch.Tensor
    ) -> torch.Tensor:
        """Run over k nodes of a level; their output [B, k, H].

        Args:
            tokens: [B, k].
            hidden: the outputs [B, k, H] of their parents.
            level: 0 right below the root.
            ancestors: bool [B, k, n], which of all n nodes run so far, these k the last, each sees.
        """

    @abstractmethod
    def log_probs(self, hidden: torch.Tensor) -> torch.Tensor:
        """Float32 log-probabilities [..., U] after outputs [..., H]."""

    def keep_rows(self, index: torch.Tensor) -> None:
        """Drop all rows except `index`."""
        self.pending = [part.keep_rows(index) for part in self.pending]
        if self.slots.has_started:
            self.slots.keep_rows(index)
            self.cache.batch_select_indices(index)

    def take_pending(self) -> Pending:
        """The tokens to read, which then count as read."""
        pending = Pending.join(self.pending)
        self.pending = []
        return pending

    def propose(self, hidden: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The k best drafts after outputs [..., H], or k drawn ones.

        Returns:
            Log-probabilities and target ids [..., k], the best or first drawn in front.
        """
        with self.watch.phase("head"):
            scores = self.log_probs(hidden)
        scores = scores.nan_to_num(nan=-torch.inf)  # a broken head drafts badly, not wrongly
        if self.sampler is None:
            scores, ids = scores.topk(k, dim=-1)
        else:
            scores, ids = self.sampler.draw(scores, k)
        if self.draft_to_target is not None:
            ids = self.draft_to_target[ids]
        return scores, ids

    def draft(self, root: torch.Tensor, max_depth: int, lengths: list[int] | tuple = ()) -> Draft:
        """A tree below the newest tokens.

        Args:
            root: [B], the newest tokens.
            max_depth: levels that are of use.
            lengths: tokens of the rows that still run.
        """
        depth = self.tree.depth
        if self.capacity is None:  # a tree of fixed size stays whole
            depth = min(depth, max_depth)
        if self.policy.begin(lengths, depth):
            return grow(self, root, self.policy, depth)
        if self.slots.window is not None:
            waiting = sum(part.width for part in self.pending)
            if waiting > self.tree.depth:
                self.extend()  # before more wait than a ring has room for
                return Draft(root_alone(root), catches_up=True)
        return Draft(root_alone(root))
