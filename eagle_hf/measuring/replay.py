"""Run a policy on a recorded trace, against a cost table: no model, no clock.

The same growth code runs in a replay as in `generate`: a `TraceDrafter` answers it from the trace.
So policies can be compared to the token.

B rows, k nodes of a level, T positions of the trace, X nodes run at each, K children of each.
"""

from collections.abc import Sequence
from itertools import cycle

import numpy
import torch

from eagle_hf.decoding.growth import Draft, grow
from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.decoding.tree import Tree, root_alone
from eagle_hf.decoding.verify import Verdict, verify
from eagle_hf.measuring.traces import NOT_RUN, Trace
from eagle_hf.planning.cost import CostTable

UNKNOWN = -30.0  # the log-probability of a draft that was not recorded


class TraceDrafter:
    """A drafter that answers from a trace.

    Its outputs [B, ., 1] are nodes of the trace, -1 for those that were not recorded.
    """

    sampler = None

    def __init__(self, trace: Trace, positions: Sequence[int]):
        """positions: where to draft, one a row."""
        self.trace = trace
        self.positions = numpy.asarray(positions)
        self.vocabulary = trace.tokens.shape[2]

    def extend(self) -> torch.Tensor:
        """The roots."""
        return torch.zeros(len(self.positions), 1, dtype=torch.long)

    def propose(self, outputs: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The k best recorded children of nodes [B, ., 1]."""
        nodes = outputs[..., 0].numpy()
        rows = self.positions.reshape(-1, *[1] * (nodes.ndim - 1))
        is_unknown = torch.from_numpy(nodes == NOT_RUN)[..., None]
        log_probs = torch.from_numpy(self.trace.log_probs[rows, nodes][..., :k].copy())
        tokens = torch.from_numpy(self.trace.tokens[rows, nodes][..., :k].copy())
        log_probs = log_probs.float().masked_fill(is_unknown, UNKNOWN)
        return log_probs, tokens.long().masked_fill(is_unknown, -1)

    def step(
        self, tokens: torch.Tensor, outputs: torch.Tensor, level: int, ancestors: torch.Tensor
    ) -> torch.Tensor:
        """The nodes [B, k, 1] that children `tokens` [B, k] of nodes [B, k, 1] are."""
        parents = outputs[..., 0].numpy()
        rows = self.positions[:, None]
        is_child = self.trace.tokens[rows, parents] == tokens.numpy()[..., None]  # [B, k, K]
        is_known = is_child.any(-1) & (parents != NOT_RUN)
        nodes = self.trace.nodes[rows, parents, is_child.argmax(-1)]
        return torch.from_numpy(numpy.where(is_known, nodes, NOT_RUN))[..., None]


def replay(
    trace: Trace, policy, table: CostTable, batch: int, length: int, tokens: int = 64
) -> tuple[float, DecodingStats]:
    """Decode a trace's answers under a policy; deterministic.

    The batch is always full: the next answer takes the place of one that ends, until as many have
    ended as there are. Drafts that were not recorded count as rejected. So for trees beyond the
    recorded ones this is a lower bound.

    Args:
        trace: of the answers.
        policy: how much is drafted.
        table: what the forwards cost.
        batch: rows at a time.
        length: tokens before each answer.
        tokens: of each answer that are decoded.

    Returns:
        Tokens per second in the table's seconds, and what was accepted.
    """
    ends = _ends(trace, tokens)
    waiting = cycle(ends)
    begun = [next(waiting) for _ in range(batch)]  # where each row's answer begins
    done = list(begun)  # how far each row has come
    stats = DecodingStats(rows=batch)
    seconds = 0.0
    ended = 0
    while ended < len(ends):
        lengths = [length + at - start for at, start in zip(done, begun, strict=True)]
        draft = _draft(trace, policy, done, lengths)
        emitted = 0
        for row, start in enumerate(begun):
            verdict = _verify(trace, draft.tree, row, done[row], ends[start])
            stats.count(verdict.trials, verdict.accepted, len(verdict.tokens))
            emitted += len(verdict.tokens)
            done[row] += len(verdict.tokens)
            if done[row] >= ends[start]:
                begun[row] = done[row] = next(waiting)
                ended += 1
        nodes = draft.tree.size - 1
        seconds += table.at(batch, max(lengths)).round_seconds(nodes, draft.widths)
        policy.end(emitted, nodes, draft.widths)
    return stats.tokens / seconds, stats


def _ends(trace: Trace, tokens: int) -> dict[int, int]:
    """The last position of each answer, by its first; at most `tokens` further on.

    Nothing is known to follow an answer's last token, so one of a single token is left out.
    """
    _, starts, counts = numpy.unique(trace.answers, return_index=True, return_counts=True)
    ends = {}
    for start, count in sorted(zip(starts.tolist(), counts.tolist(), strict=True)):
        if count > 1:
            ends[start] = min(start + tokens, start + count - 1)
    if not ends:
        raise ValueError(
            "no answer of the trace has two tokens, so there is nothing to replay; record longer "
            "answers"
        )
    return ends


def _draft(trace: Trace, policy, positions: list[int], lengths: list[int]) -> Draft:
    """What a policy drafts at these positions, for rows of these lengths."""
    drafter = TraceDrafter(trace, positions)
    root = torch.from_numpy(trace.text[drafter.positions])
    if policy.begin(lengths, policy.depth):
        return grow(drafter, root, policy, policy.depth)
    return Draft(root_alone(root))


def _verify(trace: Trace, tree: Tree, row: int, position: int, end: int) -> Verdict:
    """A row's verdict where the target chooses the answer itself, which stops at `end`."""
    depths = tree.depths[row].tolist()
    emitted = []

    def choose(node: int) -> int:
        return int(trace.text[position + depths[node] + 1])

    def emit(token: int) -> bool:
        emitted.append(token)
        return position + len(emitted) >= end

    return verify(tree.children(row), choose, emit)
