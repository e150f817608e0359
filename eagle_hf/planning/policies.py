"""How much to speculate in a round.

Either always the same, or what the drafter's confidence and the machine's costs say now.

B rows, P proposals of a row, k nodes run on a level, pi(node) = probability that a node is
accepted, the product of calibrated confidences along its path. A round of n nodes a row emits
B + sum of pi tokens in T_V(1 + n) + drafting seconds. With lambda, the tokens per second that
rounds make on the long run, what a round gains over waiting is

    J(n) = sum over rows of the n largest pi  -  lambda * T_V(1 + n),

to be maximised over all n, for real costs are not convex. Drafting another level pays if the
children it is expected to find raise max J by more than lambda * T_D. Lambda follows from the
rounds themselves (renewal reward), in predicted seconds, so that one seed gives one run.
"""

import copy
from collections.abc import Sequence

import numpy
import torch

from eagle_hf.planning.calibration import Calibration
from eagle_hf.planning.cost import Cell, CostTable
from eagle_hf.planning.sequoia import best_tree_for

GRAIN = 256  # tokens by which a text must grow for its costs to be looked up again
MEMORY = 0.9  # share of the past in lambda's running means, per round
CREDIT = 4.0  # tokens a row that drafting may lose on plain decoding before it pauses
MOST_CREDIT = 8.0  # tokens a row that it can have gained for worse times
ALLOWANCE = 0.02  # of the tokens decoded plainly in a pause: what is lost by trying again
PROBE = 1.0  # tokens a row that must have been allowed before drafting is tried again

Shape = tuple[Sequence[int], Sequence[int]]  # parents and ranks of a fixed tree


class FixedPolicy:
    """The same every round.

    Args:
        depth: levels below the root.
        k: nodes run per level.
        nodes: how many of the likeliest proposals are kept.
        shape: parents and ranks of a fixed tree, which then decides alone.
    """

    def __init__(self, depth: int, k: int, nodes: int, shape: Shape | None = None):
        self.depth = depth
        self.k = k
        self.nodes = nodes
        self.shape = shape

    def begin(self, lengths: Sequence[int], depth: int) -> bool:
        """Whether to draft at all.

        Args:
            lengths: tokens of the rows that still run.
            depth: how deep a tree may be.
        """
        return depth > 0

    def confidence(self, log_probs: torch.Tensor, depth: int) -> torch.Tensor:
        """Log-probabilities of acceptance, the parent being accepted, of drafts at `depth`."""
        return log_probs

    def deeper(self, scores: Sequence[torch.Tensor], frontier: torch.Tensor, depth: int) -> bool:
        """Whether to run the nodes of a depth.

        Args:
            scores: log-probabilities [B, .] of all proposals, level by level.
            frontier: those [B, k] of the nodes that would be run.
            depth: theirs.
        """
        return depth < self.depth

    def size(self, scores: torch.Tensor) -> int:
        """How many of the proposals [B, P] of each row the target reads."""
        return self.nodes

    def end(self, tokens: int, nodes: int, widths: Sequence[int]) -> None:
        """Take what the round did.

        Args:
            tokens: emitted, over all rows.
            nodes: drafts per row that the target read.
            widths: nodes per row of each of the drafter's forwards.
        """


class PlainPolicy(FixedPolicy):
    """Never draft: plain decoding."""

    def __init__(self):
        super().__init__(depth=0, k=1, nodes=0)

    def begin(self, lengths: Sequence[int], depth: int) -> bool:
        return False


class SequoiaPolicy(FixedPolicy):
    """The best fixed tree for the batch and the length it has come to (adaptive Sequoia).

    The longer the text, the more is drafted.

    Args:
        table: what forwards cost.
        shares: [D, W], measured acceptance by depth and rank, see sequoia.py.
        depth, nodes: the most a tree may have.
    """

    def __init__(self, table: CostTable, shares: numpy.ndarray, depth: int, nodes: int):
        super().__init__(depth, numpy.shape(shares)[1], min(nodes, table.tokens[-1] - 1))
        self.table = table
        self.shares = shares
        self._chosen_for: tuple[int, int] | None = None

    def begin(self, lengths: Sequence[int], depth: int) -> bool:
        batch = (len(lengths), max(lengths) // GRAIN)
        if batch != self._chosen_for:
            self._chosen_for = batch
            cell = self.table.at(len(lengths), max(lengths))
            self.tree, _ = best_tree_for(
                self.shares, cell.rounds, cell.draft_seconds, self.nodes, self.depth
            )
            self.shape = (self.tree.parents, self.tree.ranks)
        return depth > 0 and self.tree.size > 0


class AdaptivePolicy:
    """Depth, size and whether to draft at all, chosen anew every round for the whole batch.

    Where drafting loses, it pauses after the round that spends the last of CREDIT tokens a row. It
    is then tried again so seldom that trying costs about ALLOWANCE.

    Args:
        table: what forwards cost.
        shares: [D, W], measured acceptance by depth and rank (see sequoia.py): what a level that
            has not been drafted is expected to bring.
        calibration: of the drafter's confidence.
        depth, k, nodes: the most that is drafted.

    Attributes:
        has_paused: whether drafting has lost, and not won it back since.
    """

    shape = None
    cell: Cell  # the costs of the batch as it is now

    def __init__(
        self,
        table: CostTable,
        shares: numpy.ndarray,
        calibration: Calibration,
        depth: int,
        k: int,
        nodes: int,
    ):
        self.table = table
        self.shares = numpy.asarray(shares, dtype=float)
        self.confidence = calibration
        self.depth = depth
        self.k = k
        self.nodes = min(nodes, table.tokens[-1] - 1)
        self.has_paused = False
        self.rows = 0
        self.pays = False
        self._at: tuple[int, int] | None = None  # rows, and length in GRAINs
        self._is_paused = False
        self._credit = CREDIT  # tokens a row
        self._emitted = 0.0  # lambda's running means: tokens, and predicted seconds, of a round
        self._spent = 0.0

    def begin(self, lengths: Sequence[int], depth: int) -> bool:
        """Whether to draft at all, see `FixedPolicy.begin`."""
        self._find_cell(len(lengths), max(lengths))
        if self._is_paused:
            self._credit += ALLOWANCE
            self._is_paused = self._credit < PROBE
        return depth > 0 and self.pays and not self._is_paused

    def pays_for(self, rows: int, length: int) -> bool:
        """Whether drafting is predicted to pay for `rows` texts of `length` tokens."""
        self._find_cell(rows, length)
        return self.pays

    def copy(self) -> "AdaptivePolicy":
        """A policy for another call, which goes on where this one ended."""
        return copy.copy(self)

    @property
    def rate(self) -> float:
        """lambda: tokens per second of the whole batch, in predicted seconds."""
        return self._emitted / self._spent

    def deeper(self, scores: Sequence[torch.Tensor], frontier: torch.Tensor, depth: int) -> bool:
        """Whether the children of another level are worth their draft forward."""
        if depth >= self.depth:
            return False
        known = _chances(torch.cat(list(scores), dim=1))  # [B, P]
        level = min(depth, len(self.shares) - 1)
        of_parent = self.shares[level, : self.k]  # [k]
        expected = _chances(frontier)[..., None] * of_parent  # [B, k, k]
        hoped = numpy.concatenate([known, expected.reshape(len(known), -1)], axis=1)
        gained = self.gain(hoped).max() - self.gain(known).max()
        return gained > self.rate * self.cell.draft_seconds(self.k)

    def gain(self, chances: numpy.ndarray) -> numpy.ndarray:
        """J(n) for n = 0, 1, ...: of reading the n best of each row's proposals [B, P]."""
        most = min(chances.shape[1], self.nodes)
        best_first = -numpy.sort(-chances, axis=1)[:, :most]
        tokens = numpy.concatenate([[0.0], best_first.sum(0).cumsum()])
        return tokens - self.rate * self.cell.rounds[: most + 1]

    def size(self, scores: torch.Tensor) -> int:
        """The n that maximises J(n) over the proposals [B, P]."""
        return int(self.gain(_chances(scores)).argmax())

    def end(self, tokens: int, nodes: int, widths: Sequence[int]) -> None:
        """Learn lambda and the credit from a round that drafted, see `FixedPolicy.end`."""
        if not widths:
            return
        seconds = self.cell.round_seconds(nodes, widths)
        self._emitted = MEMORY * self._emitted + (1 - MEMORY) * tokens
        self._spent = MEMORY * self._spent + (1 - MEMORY) * seconds
        # tokens a row, compared with plain decoding for as many seconds
        gained = tokens / self.rows - seconds / self.cell.target[0]
        self._credit = min(MOST_CREDIT, self._credit + gained)
        self._judge()

    def _find_cell(self, rows: int, length: int) -> None:
        """Look up the costs of this batch; lambda begins anew where its size has changed."""
        before = self._at
        self._at = (rows, length // GRAIN)
        if before == self._at:
            return
        self.rows = rows
        self.cell = self.table.at(rows, length)
        _, rate = best_tree_for(
            self.shares, self.cell.rounds, self.cell.draft_seconds, self.nodes, self.depth
        )
        self.pays = rate * self.cell.target[0] > 1
        if before is None or before[0] != rows:
            self._expect(rate * rows)

    def _expect(self, rate: float) -> None:
        """Let lambda begin at this rate, with the weight of one round."""
        self._spent = self.cell.target[0]
        self._emitted = rate * self._spent

    def _judge(self) -> None:
        """Pause where the credit is spent; forget a pause once drafting has won it back."""
        if self._credit <= 0:
            self._is_paused = True
            self.has_paused = True
            self._expect(self.rows / self.cell.target[0])
        elif self._credit > CREDIT:
            self.has_paused = False


def _chances(log_probs: torch.Tensor) -> numpy.ndarray:
    """Probabilities of log-probabilities, in float64."""
    return log_probs.double().exp().cpu().numpy()
