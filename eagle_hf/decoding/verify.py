"""Which drafts are kept: the target chooses, and the tree only saves it the waiting.

sample_match, the default: at each node the target's own next token is chosen exactly as plain
`generate` chooses it, by argmax or by one draw from the processed distribution. If a child holds
that token we descend, else it is the bonus. There is one draw per emitted token, in plain order,
and none for drafting. So the output is the target's own, token for token under one seed.

rejection: children were *drawn* from the drafter's distribution q, siblings without replacement.
Each is accepted with probability min(1, p / q), p being the target's. After a rejection, p becomes
what q did not cover, and q loses the token (speculative sampling, arXiv 2302.01318; without
replacement for trees, Sequoia, arXiv 2402.12374, section 4.2). The tokens follow the target's
distribution, but are not those of plain `generate` under the same seed.

B batch, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch


@dataclass(frozen=True)
class Verdict:
    """What a round decided for a row.

    Attributes:
        path: nodes whose keys stay, root first.
        tokens: appended to the row, in order.
        finished: whether the row has ended.
        trials: visited nodes that had children.
        accepted: of these, how many had the chosen token among them.
        padding: how many of the tokens, the last ones, are padding behind the row's end.
    """

    path: list[int]
    tokens: list[int]
    finished: bool
    trials: int
    accepted: int
    padding: int = 0

    @property
    def emitted(self) -> list[int]:
        """The tokens without padding; none where the row had ended before."""
        return self.tokens[: len(self.tokens) - self.padding]


STANDS_STILL = Verdict([], [], True, 0, 0)  # of a row that had ended before


def verify(
    children: list[dict[int, int]], choose: Callable[[int], int], emit: Callable[[int], bool]
) -> Verdict:
    """Walk down one row's tree from the root, as far as the target's choices lead.

    Args:
        children: the children of each node, token -> node.
        choose: the target's token after a node.
        emit: appends a token to the row and tells whether the row ends.
    """
    node = 0
    path = [0]
    tokens = []
    trials = 0
    accepted = 0
    while True:
        token = choose(node)
        finished = emit(token)
        tokens.append(token)
        child = children[node].get(token)
        trials += bool(children[node])
        accepted += child is not None
        if finished or child is None:
            return Verdict(path, tokens, finished, trials, accepted)
        node = child
        path.append(node)


def acceptance(target_probs: torch.Tensor, draft_probs: torch.Tensor, token: int) -> float:
    """With which probability a token drawn from draft_probs [V] is kept."""
    return min(1.0, float(target_probs[token]) / float(draft_probs[token]))


def reject(
    target_probs: torch.Tensor, draft_probs: torch.Tensor, token: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What target and drafter still offer after a drawn token was rejected.

    Returns:
        max(p - q, 0) and q without the token, both [V] and normalised.
    """
    remainder = (target_probs - draft_probs).clamp(min=0)
    if remainder.sum() <= 0:  # p and q are equal up to rounding, and so was the rejection
        remainder = target_probs
    rest = draft_probs.clone()
    rest[token] = 0
    least = torch.finfo(rest.dtype).tiny
    return remainder / remainder.sum(), rest / rest.sum().clamp(min=least)


def verify_drawn(
    children: list[list[tuple[int, int]]],
    target_probs: Callable[[int], torch.Tensor],
    draft_probs: Callable[[int], torch.Tensor],
    emit: Callable[[int], bool],
    uniform: Callable[[], float],
    draw: Callable[[torch.Tensor], int],
) -> Verdict:
    """`verify` by rejection.

    Args:
        children: the children (token, node) of each node, in the order the drafter drew them in.
        target_probs, draft_probs: the distributions [V] after a node.
        emit: appends a token to the row and tells whether the row ends.
        uniform: draws a number from [0, 1).
        draw: draws a token from probabilities [V].
    """
    node = 0
    path = [0]
    tokens = []
    trials = 0
    accepted = 0
    while True:
        drafts = children[node]
        offered = partial(draft_probs, node)
        token, child = draw_next(drafts, target_probs(node), offered, uniform, draw)
        finished = emit(token)
        tokens.append(token)
        trials += bool(drafts)
        accepted += child is not None
        if finished or child is None:
            return Verdict(path, tokens, finished, trials, accepted)
        node = child
        path.append(node)


def draw_next(
    drafts: list[tuple[int, int]],
    wanted: torch.Tensor,
    offered: Callable[[], torch.Tensor],
    uniform: Callable[[], float],
    draw: Callable[[torch.Tensor], int],
) -> tuple[int, int | None]:
    """The token after a node, and the child that holds it; None where no draft is accepted.

    Args:
        drafts: the children (token, node), in the order they were drawn in.
        wanted: the target's distribution [V].
        offered: gives the drafter's distribution [V], which only nodes with children have.
        uniform, draw: see `verify_drawn`.
    """
    if drafts:
        wanted, kept = try_drafts(drafts, wanted, offered(), uniform)
        if kept is not None:
            return kept
    return draw(wanted), None


def try_drafts(
    drafts: list[tuple[int, int]],
    wanted: torch.Tensor,
    offered: torch.Tensor,
    uniform: Callable[[], float],
) -> tuple[torch.Tensor, tuple[int, int] | None]:
    """Try the children (token, node) of a node in turn.

    Args:
        drafts: in the order they were drawn in.
        wanted, offered: the distributions [V] of target and drafter.
        uniform: draws a number from [0, 1).

    Returns:
        What the target still wants [V], and the accepted child (token, node); None for the
        latter where all are rejected.
    """
    for token, node in drafts:
        # not drawn: a broken drafter, or one with fewer tokens than the tree has places
        if not offered[token] > 0:
            continue
        if uniform() < acceptance(wanted, offered, token):
            return wanted, (token, node)
        wanted, offered = reject(wanted, offered, token)
    return wanted, None


def uniform() -> float:
    """A number from [0, 1)."""
    return float(torch.rand(()))


def draw(probs: torch.Tensor) -> int:
    """A token drawn from probabilities [V]."""
    return int(torch.multinomial(probs, 1))
