"""How much to speculate in a round: always the same, or what the drafter's confidence and the machine's costs say now.

B rows, P proposals of a row, pi(node) = probability that a node is accepted, the product of calibrated confidences along
its path. A round of n nodes a row emits B + sum of pi tokens in T_V(1 + n) + drafting seconds. With lambda, the tokens per
second that rounds make on the long run, what a round gains over waiting is

    J(n) = sum over rows of the n largest pi  -  lambda * T_V(1 + n),

to be maximised over all n, for real costs are not convex. Drafting another level pays if the children it is expected to
find raise max J by more than lambda * T_D. Lambda follows from the rounds themselves (renewal reward), in predicted
seconds, so that one seed gives one run.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch

from eagle_hf.planning.cost import CostTable
from eagle_hf.planning.sequoia import best_tree_for

CERTAIN = (-30.0, -1e-6)  # log-probabilities beyond these count as these: their logits are finite
GRAIN = 256  # tokens by which a text must grow for its costs to be looked up again
MEMORY = 0.9  # share of the past in lambda's running means, per round
CREDIT = 4.0  # tokens a row that drafting may lose on plain decoding before it pauses
MOST_CREDIT = 8.0  # that it can have gained for worse times
ALLOWANCE = 0.02  # of the tokens decoded plainly in a pause: what is lost by trying again
PROBE = 1.0  # tokens a row that must have been allowed before it is tried again


class FixedPlan:
    """The same every round: the likeliest `nodes` of a pool, or, where `shape` (parents, ranks) is given, that fixed tree."""

    def __init__(
        self,
        depth: int,
        k: int,
        nodes: int,
        shape: tuple[Sequence[int], Sequence[int]] | None = None,
    ):
        self.depth, self.k, self.nodes, self.shape = depth, k, nodes, shape

    def begin(self, lengths: Sequence[int], depth: int) -> bool:
        """Whether to draft at all, for unfinished rows of these lengths, of which a tree may be `depth` levels deep."""
        return depth > 0

    def confidence(self, log_probs: torch.Tensor, depth: int) -> torch.Tensor:
        """Log-probabilities of acceptance, given that the parent was accepted, of drafts at a depth (1: below the root)."""
        return log_probs

    def deeper(self, scores: Sequence[torch.Tensor], frontier: torch.Tensor, depth: int) -> bool:
        """Whether to run the `frontier` [B, k] of a depth; both are log-probabilities, `scores` [B, .] of all proposals, level by level."""
        return depth < self.depth

    def size(self, scores: torch.Tensor) -> int:
        """How many of the proposals [B, P] of each row the target reads."""
        return self.nodes

    def end(self, tokens: int) -> None:
        """Take what the round emitted, over all rows."""


class PlainPlan(FixedPlan):
    """Never draft: plain decoding."""

    def __init__(self):
        super().__init__(0, 1, 0)

    def begin(self, lengths, depth):
        return False


class SequoiaPlan(FixedPlan):
    """The best fixed tree for the batch and the length it has come to (adaptive Sequoia): the longer the text, the more is drafted.

    shares [D, W]: measured acceptance by depth and rank, see sequoia.py.
    """

    def __init__(self, table: CostTable, shares: numpy.ndarray, depth: int, nodes: int):
        super().__init__(depth, numpy.shape(shares)[1], min(nodes, table.tokens[-1] - 1))
        self.table, self.shares, self._at = table, shares, None

    def begin(self, lengths, depth):
        at = len(lengths), max(lengths) // GRAIN
        if at != self._at:
            self._at, cell = at, self.table.at(len(lengths), max(lengths))
            self.tree, _ = best_tree_for(
                self.shares, cell.rounds, cell.draft_seconds, self.nodes, self.depth
            )
            self.shape = self.tree.parents, self.tree.ranks
        return depth > 0 and self.tree.size > 0


@dataclass(frozen=True)
class Calibration:
    """P(accepted | parent accepted) = sigmoid(slope * logit(p) + offset) of a draft of probability p, by depth from 1.

    slopes, offsets [D]; deeper drafts are taken to be like the last.
    """

    slopes: tuple[float, ...] = (1.0,)
    offsets: tuple[float, ...] = (0.0,)

    def __call__(self, log_probs: torch.Tensor, depth: int) -> torch.Tensor:
        """Calibrated log-probabilities of drafts at `depth`."""
        at = min(depth, len(self.slopes)) - 1
        log_probs = log_probs.clamp(*CERTAIN)
        logit = log_probs - (-log_probs.expm1()).log()
        return torch.nn.functional.logsigmoid(self.slopes[at] * logit + self.offsets[at])


def fit_calibration(
    logs: Sequence[tuple[int, float, bool]], depths: int, steps: int = 50
) -> Calibration:
    """Logistic regression at every depth over (depth, log-probability, accepted) of drafts whose parent was accepted.

    Newton's method with a light pull towards slope 1, offset 0, which is what a depth without drafts gets.
    """
    found = []
    for depth in range(1, depths + 1):
        rows = numpy.array(
            [(log_prob, accepted) for at, log_prob, accepted in logs if at == depth], dtype=float
        ).reshape(-1, 2)
        log_probs = numpy.clip(rows[:, 0], *CERTAIN)
        features = numpy.stack(
            [log_probs - numpy.log(-numpy.expm1(log_probs)), numpy.ones(len(rows))], axis=1
        )
        found.append(_logistic(features, rows[:, 1], steps))
    return Calibration(*(tuple(float(weights[i]) for weights in found) for i in range(2)))


def _logistic(features: numpy.ndarray, outcomes: numpy.ndarray, steps: int) -> numpy.ndarray:
    """Weights (slope, offset) of P(outcome) = sigmoid(features @ weights), pulled towards (1, 0)."""
    start = numpy.array([1.0, 0.0])
    weights, signs = start, 1 - 2 * outcomes

    def misfit(weights):
        return (
            numpy.logaddexp(0, signs * (features @ weights)).sum()
            + ((weights - start) ** 2).sum() / 2
        )

    for _ in range(steps):
        chance = 1 / (1 + numpy.exp(-features @ weights))
        gradient = features.T @ (chance - outcomes) + weights - start
        curvature = features.T @ (features * (chance * (1 - chance))[:, None]) + numpy.eye(2)
        step = numpy.linalg.solve(curvature, gradient)
        while numpy.abs(step).max() > 1e-9 and misfit(weights - step) > misfit(weights):
            step = step / 2  # far from the solution Newton's step overshoots
        weights = weights - step
    return weights


class AdaptivePlan:
    """Depth, size and whether to draft at all, chosen anew every round for the whole batch.

    shares [D, W]: measured acceptance by depth and rank (see sequoia.py), what an undrafted level is expected to bring.

    Where drafting loses, it pauses after the round that spends the last of CREDIT tokens a row, and is tried again so
    seldom that it costs about ALLOWANCE: `has_paused`, until it has won that back.
    """

    shape = None

    def __init__(
        self,
        table: CostTable,
        shares: numpy.ndarray,
        calibration: Calibration,
        depth: int,
        k: int,
        nodes: int,
    ):
        self.table, self.shares, self.confidence = (
            table,
            numpy.asarray(shares, dtype=float),
            calibration,
        )
        self.depth, self.k, self.nodes = depth, k, min(nodes, table.tokens[-1] - 1)
        self.cell = self._at = None
        self.has_paused, self._is_paused = False, False

    def begin(self, lengths, depth):
        self._find_cell(len(lengths), max(lengths))
        if self._is_paused:
            self._credit += ALLOWANCE
            self._is_paused = self._credit < PROBE
        self.read, self.widths = 0, [1] if depth > 0 and self.pays and not self._is_paused else []
        return bool(self.widths)

    def _find_cell(self, rows: int, length: int) -> None:
        """The costs of this batch; where its size has changed, lambda begins anew."""
        before, self._at = self._at, (rows, length // GRAIN)
        if before == self._at:
            return
        self.rows, self.cell = rows, self.table.at(rows, length)
        _, rate = best_tree_for(
            self.shares, self.cell.rounds, self.cell.draft_seconds, self.nodes, self.depth
        )
        self.pays = rate * self.cell.target[0] > 1
        if before is None:
            self._credit = CREDIT
        if before is None or before[0] != rows:
            self._expect(rate * rows)

    def _expect(self, rate: float) -> None:
        """Let lambda begin at this rate, with the weight of one round."""
        self._emitted, self._spent = rate * self.cell.target[0], self.cell.target[0]

    def pays_for(self, rows: int, length: int) -> bool:
        """Whether drafting is predicted to pay for a batch of `rows` texts of `length` tokens."""
        self._find_cell(rows, length)
        return self.pays

    def copy(self) -> "AdaptivePlan":
        """One for another call, which goes on where this one ended."""
        return copy.copy(self)

    @property
    def rate(self) -> float:
        """lambda: tokens per second of the whole batch, in predicted seconds."""
        return self._emitted / self._spent

    def deeper(self, scores, frontier, depth):
        if depth >= self.depth:
            return False
        known = _chances(torch.cat(list(scores), dim=1))
        row = self.shares[min(depth, len(self.shares) - 1), : self.k]
        expected = (_chances(frontier)[..., None] * row).reshape(len(known), -1)
        best, hoped = (
            self.gain(chances).max()
            for chances in (known, numpy.concatenate([known, expected], axis=1))
        )
        if hoped - best <= self.rate * self.cell.draft_seconds(self.k):
            return False
        self.widths.append(self.k)
        return True

    def gain(self, chances: numpy.ndarray) -> numpy.ndarray:
        """J(n) for n = 0, 1, ...: of reading the n best of each row's proposals [B, P]."""
        most = min(chances.shape[1], self.nodes)
        ordered = -numpy.sort(-chances, axis=1)[:, :most]
        tokens = numpy.concatenate([[0.0], ordered.sum(0).cumsum()])
        return tokens - self.rate * self.cell.rounds[: most + 1]

    def size(self, scores):
        self.read = int(self.gain(_chances(scores)).argmax())
        return self.read

    def end(self, tokens):
        seconds = self.cell.round_seconds(self.read, self.widths)
        if self.widths:
            self._emitted, self._spent = (
                MEMORY * old + (1 - MEMORY) * new
                for old, new in ((self._emitted, tokens), (self._spent, seconds))
            )
            gained = (
                tokens / self.rows - seconds / self.cell.target[0]
            )  # tokens a row, beside plain decoding
            self._credit = min(MOST_CREDIT, self._credit + gained)
            self._judge()

    def _judge(self) -> None:
        """Pause where the credit is spent; forget a pause once drafting has won it back."""
        if self._credit <= 0:
            self._is_paused = self.has_paused = True
            self._expect(self.rows / self.cell.target[0])
        elif self._credit > CREDIT:
            self.has_paused = False


def _chances(log_probs: torch.Tensor) -> numpy.ndarray:
    return log_probs.double().exp().cpu().numpy()
