"""What this package's chain accepts along texts that an engine wrote.

Measured on the engine's own text, both numbers speak of drafting alone: a target in another dtype
writes another text, but the drafts below a given text stay comparable.

T tokens of an answer, K drafts of a chain.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.head.trees import TreeConfig
from eagle_hf.hub.gate.conversation import answer_greedily
from eagle_hf.measuring.traces import record


@dataclass(frozen=True)
class Rounds:
    """Rounds of one answer, and the drafts accepted in them."""

    rounds: int
    accepted: int


def replay_chain(
    target: Any,
    head: Eagle3DraftHead,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    depth: int,
) -> list[Rounds]:
    """Draft a chain below every token of given answers, and accept along each of them.

    Args:
        target: The target.
        head: The head.
        prompts: Token ids of each prompt.
        answers: Token ids of each answer.
        depth: Drafts of a chain, K.

    Returns:
        For each answer its rounds. No round drafts beyond the answer's end.
    """
    trace = record(
        target,
        head,
        [torch.tensor([list(prompt)]) for prompt in prompts],
        [torch.tensor(list(answer)) for answer in answers],
        depth=depth,
        width=1,
        children=1,
    )
    replayed = []
    for number, answer in enumerate(answers):
        drafts = trace.tokens[trace.answers == number][..., 0]  # [T, K]
        replayed.append(_accept_along(drafts, list(answer)))
    return replayed


def _accept_along(drafts: numpy.ndarray, answer: list[int]) -> Rounds:
    """The rounds of an answer with the chain [K] below each of its tokens."""
    rounds = 0
    accepted_drafts = 0
    root = 0  # the newest token of the answer when a round begins
    while root < len(answer) - 1:
        # the round's last token is the target's own
        room = min(drafts.shape[1], len(answer) - root - 2)
        accepted = 0
        while accepted < room and drafts[root, accepted] == answer[root + 1 + accepted]:
            accepted += 1
        rounds += 1
        accepted_drafts += accepted
        root += accepted + 1
    return Rounds(rounds, accepted_drafts)


def generate_chain(
    target: Any, head: Eagle3DraftHead, prompt: Sequence[int], new_tokens: int, depth: int
) -> tuple[list[int], Rounds]:
    """Answer a prompt greedily with a chain, through `generate`.

    Args:
        target: The target.
        head: The head; its own tree stays as it is.
        prompt: Token ids.
        new_tokens: Most tokens of the answer.
        depth: Drafts of a chain.

    Returns:
        (token ids of the answer, its rounds).
    """
    before = head.tree
    head.tree = TreeConfig("chain", depth=depth)
    try:
        answer = answer_greedily(target, prompt, new_tokens, head)
    finally:
        head.tree = before
    run: DecodingStats = head.last_run
    return answer, Rounds(run.rounds, sum(run.accepted))
