"""Walking the trees of a batch with the target's logits.

Each row is walked down by itself, at its own speed, where nothing that is called looks at more than
one row. Otherwise the rows go in lockstep, see lockstep.py.

B rows of the batch, N tree nodes, V vocabulary.
"""

from abc import ABC, abstractmethod
from functools import partial

import torch

from eagle_hf.compat import AssistedCall
from eagle_hf.decoding.assistants.base import Drafter
from eagle_hf.decoding.choice import TargetChoice
from eagle_hf.decoding.growth import Draft
from eagle_hf.decoding.sequences import Sequences
from eagle_hf.decoding.stopping import Stopping
from eagle_hf.decoding.tree import Tree
from eagle_hf.decoding.verify import STANDS_STILL, Verdict, draw, uniform, verify, verify_drawn


class Verifier(ABC):
    """Decides what every row emits, and appends it to the sequences.

    Args:
        call: of generate.
        sequences: of the run.
        drafter: who drafted.
        groups: how many groups of rows advance together.

    Attributes:
        keeps_rows: whether rows that have ended must stay in the batch.
        choice: how the target chooses.
    """

    keeps_rows = False

    def __init__(self, call: AssistedCall, sequences: Sequences, drafter: Drafter, groups: int):
        self.sequences = sequences
        self.choice = TargetChoice(call.logits_processor, call.generation_config, groups)
        self.draws = drafter.sampler is not None
        self.draft_to_target = drafter.draft_to_target

    def with_padding(self, draft: Draft) -> Draft:
        """The draft as it is: where rows that have ended stay, their drafts go unread."""
        return draft

    @abstractmethod
    def first_tokens(self, logits: torch.Tensor) -> list[list[int]]:
        """The first token of every row, from logits [B, V] at the prompts' ends."""

    @abstractmethod
    def verdicts(self, tree: Tree, logits: torch.Tensor) -> list[Verdict]:
        """A verdict for every row of the batch, from logits [B, N, V]."""


class RowVerifier(Verifier):
    """A verifier that walks row by row."""

    def __init__(self, call: AssistedCall, sequences: Sequences, drafter: Drafter):
        super().__init__(call, sequences, drafter, groups=len(call.input_ids))
        self.stopping = Stopping(call.stopping_criteria)

    def first_tokens(self, logits: torch.Tensor) -> list[list[int]]:
        first = []
        for row, row_logits in enumerate(logits):
            token = self.choose(row, row_logits)
            self.emit(row, token)
            first.append([token])
        return first

    def verdicts(self, tree: Tree, logits: torch.Tensor) -> list[Verdict]:
        decided = None
        if self.choice.is_plain_argmax:
            # max: argmax is six times slower in bf16 on a CPU
            decided = tree.fetch(logits.max(-1).indices)
        verdicts = []
        for place, row in enumerate(self.sequences.in_batch):
            if self.sequences.finished[row]:
                verdict = STANDS_STILL
            elif self.draws:
                verdict = self._by_rejection(tree, logits[place], place, row)
            elif decided is not None:
                emit = partial(self.emit, row)
                verdict = verify(tree.children(place), decided[place].__getitem__, emit)
            else:
                verdict = self._by_choice(tree, logits[place], place, row)
            verdicts.append(verdict)
        return verdicts

    def choose(self, row: int, logits: torch.Tensor) -> int:
        """The target's next token for a row, by its processors and its one draw."""
        return int(self.choice(row, self.sequences.prefix(row), logits[None]))

    def emit(self, row: int, token: int) -> bool:
        """Append a row's token; whether the row ends with it."""
        self.sequences.append(row, token)
        scores = self.choice.scores_of(row)
        ends = self.stopping(self.sequences.prefix(row), token, scores)
        self.sequences.finished[row] = ends
        return ends

    def _by_choice(self, tree: Tree, logits: torch.Tensor, place: int, row: int) -> Verdict:
        """A row's verdict by the target's own choice at each node, from logits [N, V]."""

        def choose(node: int) -> int:
            return self.choose(row, logits[node])

        return verify(tree.children(place), choose, partial(self.emit, row))

    def _by_rejection(self, tree: Tree, logits: torch.Tensor, place: int, row: int) -> Verdict:
        """A row's verdict by rejection sampling, from logits [N, V]."""

        def target_probs(node: int) -> torch.Tensor:
            prefix = self.sequences.prefix(row)
            scores = self.choice.processed(row, prefix, logits[node : node + 1])
            return scores[0].softmax(-1)

        def draft_probs(node: int) -> torch.Tensor:
            return tree.offer(node, place, self.draft_to_target, logits.shape[-1])

        emit = partial(self.emit, row)
        return verify_drawn(tree.drawn(place), target_probs, draft_probs, emit, uniform, draw)
