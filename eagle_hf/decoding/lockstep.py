"""Walking the trees of a batch in lockstep, for callbacks that look at the whole batch.

A logits processor may ban other tokens in each row, keep an automaton per row, or compare rows. A
stopping criterion may count its calls. So they are called as plain `generate` calls them: once per
step with all rows, which have one length, and with ended rows padded.

In a round, at every step, each row stands at a node. The callbacks decide about all rows, and each
row goes on to the child that holds its token. Where one row has no such child, the round ends for
all, and drafts are lost that would have been accepted. Two rows, in the first round:

             drafts below the root    chosen, step by step    emitted    lost
    row 0    a -- b -- c              a  b                    a b        c
    row 1    d -- e -- f              d  x                    d x

A row that has ended stays in the batch and drafts padding. So the target reads what it would have
read in plain decoding, and the scores of such a row are plain ones too.

R rows of the call, all of them in the batch, L tokens of a row, N tree nodes, V vocabulary.
"""

from dataclasses import replace
from functools import partial

import torch

from eagle_hf.compat import AssistedCall, padding_token
from eagle_hf.decoding.assistants.base import Drafter
from eagle_hf.decoding.callbacks import advance_together, pads_ended_rows
from eagle_hf.decoding.growth import Draft
from eagle_hf.decoding.sequences import Sequences
from eagle_hf.decoding.tree import Tree
from eagle_hf.decoding.upload import upload
from eagle_hf.decoding.verifier import RowVerifier, Verifier
from eagle_hf.decoding.verify import Verdict, draw, draw_next, uniform

NO_TOKEN = -1  # in place of the padding token, where no row is padded


def make_verifier(call: AssistedCall, sequences: Sequences, drafter: Drafter) -> Verifier:
    """What decides what every row of a call emits."""
    steps_together = advance_together(call) or not drafter.drafts
    kind = LockstepVerifier if steps_together else RowVerifier
    return kind(call, sequences, drafter)


class LockstepVerifier(Verifier):
    """A verifier that goes a step with all rows."""

    keeps_rows = True

    def __init__(self, call: AssistedCall, sequences: Sequences, drafter: Drafter):
        super().__init__(call, sequences, drafter, groups=1)
        self.criteria = call.stopping_criteria
        self._pads = pads_ended_rows(call.stopping_criteria)
        pad_token = padding_token(call.generation_config)
        assert pad_token is not None or not self._pads, "rows are padded with nothing"
        self._pad_token = NO_TOKEN if pad_token is None else int(pad_token)
        self._ended = torch.zeros_like(call.input_ids[:, 0], dtype=torch.bool)  # [R]

    def first_tokens(self, logits: torch.Tensor) -> list[list[int]]:
        tokens = self.choice(0, self.sequences.whole, logits).tolist()
        self._append(tokens)
        return [[token] for token in tokens]

    def with_padding(self, draft: Draft) -> Draft:
        """The draft, with padding as the drafts of rows that have ended."""
        ended = [row for row, is_finished in enumerate(self.sequences.finished) if is_finished]
        if not ended:
            return draft
        return replace(draft, tree=draft.tree.with_chains(ended, self._pad_token))

    def verdicts(self, tree: Tree, logits: torch.Tensor) -> list[Verdict]:
        walks = [Walk(tree.children(row)) for row in range(len(logits))]
        rows = torch.arange(len(walks), device=logits.device)
        while True:
            nodes = upload([walk.node for walk in walks], logits.device)
            tokens = self._next_tokens(tree, walks, logits[rows, nodes])
            for walk, token, is_padding in zip(walks, tokens, self.sequences.finished, strict=True):
                walk.take(token, is_padding)
            self._append(tokens)
            goes_on = all(walk.can_descend for walk in walks)
            if self.sequences.all_finished or not goes_on:
                break
            for walk in walks:
                walk.descend()
        verdicts = []
        for walk, is_finished in zip(walks, self.sequences.finished, strict=True):
            verdicts.append(walk.verdict(is_finished))
        return verdicts

    def _next_tokens(self, tree: Tree, walks: list["Walk"], logits: torch.Tensor) -> list[int]:
        """The next token of every row, from logits [R, V] where it stands."""
        if self.draws:
            scores = self.choice.processed(0, self.sequences.whole, logits)
            chosen = self._drawn(tree, walks, scores.softmax(-1))
        else:
            chosen = self.choice(0, self.sequences.whole, logits).tolist()
        tokens = []
        for token, is_padding in zip(chosen, self.sequences.finished, strict=True):
            tokens.append(self._pad_token if is_padding else token)
        return tokens

    def _drawn(self, tree: Tree, walks: list["Walk"], probs: torch.Tensor) -> list[int]:
        """A token for every row by rejection sampling, from the target's `probs` [R, V].

        A row that has ended has padding, of which no distribution is known.
        """
        tokens = []
        for row, walk in enumerate(walks):
            token = self._pad_token
            if not self.sequences.finished[row]:
                drafts = list(walk.below.items())
                offered = partial(tree.offer, walk.node, row, self.draft_to_target, probs.shape[-1])
                token, _ = draw_next(drafts, probs[row], offered, uniform, draw)
            tokens.append(token)
        return tokens

    def _append(self, tokens: list[int]) -> None:
        """Append a token to every row, and ask who has ended."""
        self.sequences.append_to_all(tokens)
        self._ended = self._ended | self._ask_criteria()
        ended = self._ended.tolist()
        if not self._pads:  # then rows go on until the last one ends
            ended = [all(ended)] * len(ended)
        self.sequences.finish(ended)

    def _ask_criteria(self) -> torch.Tensor:
        """Which rows the stopping criteria end now: bool [R]."""
        ends = self.criteria(self.sequences.whole, self.choice.scores_of(0))
        if ends.shape != self._ended.shape:
            raise ValueError(
                f"the stopping criteria gave a tensor of shape {list(ends.shape)} for "
                f"{len(self._ended)} rows; each must return one bool, or one per row: "
                f"[{len(self._ended)}]"
            )
        return ends


class Walk:
    """One row's way down its tree.

    Args:
        children: the children of each node, token -> node.

    Attributes:
        node: where the row stands.
    """

    def __init__(self, children: list[dict[int, int]]):
        self.node = 0
        self._children = children
        self._path = [0]
        self._tokens: list[int] = []
        self._trials = 0
        self._accepted = 0
        self._padding = 0

    @property
    def below(self) -> dict[int, int]:
        """The children of this node, token -> node."""
        return self._children[self.node]

    @property
    def can_descend(self) -> bool:
        """Whether a child holds the token that was taken last."""
        return self._tokens[-1] in self.below

    def take(self, token: int, is_padding: bool) -> None:
        """Take the token after this node."""
        self._tokens.append(token)
        if is_padding:
            self._padding += 1
            return
        self._trials += bool(self.below)
        self._accepted += token in self.below

    def descend(self) -> None:
        """Go on from the child that holds the token taken last."""
        self.node = self.below[self._tokens[-1]]
        self._path.append(self.node)

    def verdict(self, finished: bool) -> Verdict:
        """What the walk came to."""
        return Verdict(
            self._path, self._tokens, finished, self._trials, self._accepted, self._padding
        )
