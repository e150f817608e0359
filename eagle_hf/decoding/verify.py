"""Which drafts are kept: the target chooses, the tree only saves it the waiting.

sample_match, the default: at each node the target's own next token is chosen exactly as plain `generate` chooses it:
argmax, or one draw from the processed distribution. If a child holds that token we descend, else it is the bonus. One
draw per emitted token, in plain order, none for drafting: so the output is the target's own, token for token under one seed.

rejection: children were *drawn* from the drafter's distribution q, siblings without replacement, and each is accepted with
probability min(1, p / q), p being the target's. After a rejection p becomes what q did not cover, and q loses the token
(speculative sampling, arXiv 2302.01318; without replacement for trees, Sequoia, arXiv 2402.12374, section 4.2). Tokens
follow the target's distribution, but are not those of plain `generate` under the same seed.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch


class Verdict(NamedTuple):
    """path: nodes whose keys stay, root first; tokens: emitted, in order; finished: the row has stopped.

    trials: visited nodes that had children; accepted: of these, how many had the chosen token among them.
    """

    path: list[int]
    tokens: list[int]
    finished: bool
    trials: int
    accepted: int


def verify(
    children: list[dict[int, int]], choose: Callable[[int], int], emit: Callable[[int], bool]
) -> Verdict:
    """Walk one row's tree from the root, as far as the target goes along.

    `choose(node)` is the target's token after that node; `emit(token)` puts it out and tells whether the row ends.
    """
    node, path, tokens, trials, accepted = 0, [0], [], 0, 0
    while True:
        token = choose(node)
        finished = emit(token)
        tokens.append(token)
        trials += bool(children[node])
        child = children[node].get(token)
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
    """What target and drafter still offer [V] after a drawn token was rejected: max(p - q, 0), and q without the token."""
    remainder = (target_probs - draft_probs).clamp(min=0)
    if remainder.sum() <= 0:  # p and q are equal up to rounding, and so was the rejection
        remainder = target_probs
    rest = draft_probs.clone()
    rest[token] = 0
    return remainder / remainder.sum(), rest / rest.sum().clamp(min=torch.finfo(rest.dtype).tiny)


def verify_drawn(
    children: list[list[tuple[int, int]]],
    target_probs: Callable[[int], torch.Tensor],
    draft_probs: Callable[[int], torch.Tensor],
    emit: Callable[[int], bool],
    uniform: Callable[[], float],
    draw: Callable[[torch.Tensor], int],
) -> Verdict:
    """`verify` by rejection: children[node] lists (token, child) in the order in which the drafter drew them.

    target_probs(node), draft_probs(node): distributions [V] after the node; uniform(): a number from [0, 1); draw(probs): a token.
    """
    node, path, tokens, trials, accepted = 0, [0], [], 0, 0
    while True:
        wanted, offered, kept = (
            target_probs(node),
            draft_probs(node) if children[node] else None,
            None,
        )
        for token, child in children[node]:
            if (
                not offered[token] > 0
            ):  # not drawn: a broken drafter, or one with fewer tokens than the tree has places
                continue
            if uniform() < acceptance(wanted, offered, token):
                kept = token, child
                break
            wanted, offered = reject(wanted, offered, token)
        trials += bool(children[node])
        accepted += kept is not None
        token, child = kept or (draw(wanted), None)
        finished = emit(token)
        tokens.append(token)
        if finished or child is None:
            return Verdict(path, tokens, finished, trials, accepted)
        node = child
        path.append(node)


class TargetChoice:
    """The target's next token as `generate` would choose it, and the scores it asks to keep."""

    def __init__(self, logits_processor, generation_config, rows: int):
        self.logits_processor = logits_processor
        self.do_sample = generation_config.do_sample
        wanted = generation_config.return_dict_in_generate
        self.scores = (
            [[] for _ in range(rows)] if wanted and generation_config.output_scores else None
        )
        self.raw_logits = (
            [[] for _ in range(rows)] if wanted and generation_config.output_logits else None
        )

    @property
    def is_plain_argmax(self) -> bool:
        """Whether the choice depends on a node's logits alone, so that all nodes can be decided at once."""
        return not (
            self.do_sample
            or len(self.logits_processor)
            or self.scores is not None
            or self.raw_logits is not None
        )

    def __call__(self, row: int, prefix: torch.Tensor, logits: torch.Tensor) -> int:
        """The token after `prefix` [1, L] (left padding included, as plain generate shows it) given logits [V]."""
        scores = self.processed(row, prefix, logits)
        if self.do_sample:
            return int(torch.multinomial(scores.softmax(-1), num_samples=1))
        return int(scores.argmax(-1))

    def processed(self, row: int, prefix: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The scores [1, V] that generate would choose from."""
        logits = logits[None].to(copy=True, dtype=torch.float32, device=prefix.device)
        scores = self.logits_processor(prefix, logits)
        if self.scores is not None:
            self.scores[row].append(scores[0])
        if self.raw_logits is not None:
            self.raw_logits[row].append(logits[0])
        return scores


def stack_rows(kept: list[list[torch.Tensor]] | None) -> tuple[torch.Tensor, ...] | None:
    """Per-row lists of [V] as `generate` returns them: one [B, V] per step; zeros where a row had already ended."""
    if kept is None:
        return None
    steps = max(len(row) for row in kept)
    blank = torch.zeros_like(kept[0][0])
    return tuple(
        torch.stack([row[step] if step < len(row) else blank for row in kept])
        for step in range(steps)
    )
