"""Why an engine accepts another number of drafts: every known misreading is tried here.

The head is misread on purpose, one way at a time, along the texts that the engine wrote. A
misreading under which as many drafts are accepted, answer by answer, is a reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.hub.gate.client import Answer
from eagle_hf.hub.gate.drafting import Rounds, replay_chain
from eagle_hf.hub.gate.measured import Comparison, Row
from eagle_hf.hub.gate.misreadings import list_misreadings, misread
from eagle_hf.target import aux_layer_ids

NOISE_SHARE = 0.02  # of what is accepted here: as good as nothing
NOISE = (
    "nothing is accepted: the drafts are noise, as with an LM head, embeddings or a draft "
    "vocabulary map that are not the head's own"
)


@dataclass(frozen=True)
class Asked:
    """What an engine was asked, and what it said.

    Args:
        prompts: Token ids of each prompt.
        answers: The engine's.
        expected: What the target alone answers here.
    """

    prompts: Sequence[Sequence[int]]
    answers: Sequence[Answer]
    expected: Sequence[Sequence[int]]


def compare(name: str, target: Any, head: Eagle3DraftHead, asked: Asked, depth: int) -> Comparison:
    """Hold an engine's answers against what is accepted here along the same texts.

    Args:
        name: Of the head, in the verdict.
        target: The target.
        head: The head that is served.
        asked: Prompts and answers.
        depth: Drafts of a chain.

    Returns:
        The comparison, without reasons.
    """
    rows = []
    replayed = _replay(target, head, asked, depth)
    for answer, here, expected in zip(asked.answers, replayed, asked.expected, strict=True):
        # Each round writes one token more than it accepts. An engine that counts rounds leaves
        # those out in which nothing was drafted.
        undrafted = len(answer.tokens) - 1 - answer.accepted
        row = Row(
            tokens=len(answer.tokens),
            rounds=max(answer.rounds or 0, undrafted),
            rounds_here=here.rounds,
            counted=answer.accepted,
            same_text=is_same_text(answer.tokens, expected),
        )
        rows.append(row)
    return Comparison(name, tuple(rows))


def find_reasons(
    target: Any, head: Eagle3DraftHead, asked: Asked, comparison: Comparison, depth: int
) -> list[str]:
    """Why a comparison is not the same on both sides.

    Args:
        target: The target.
        head: The head that is served.
        asked: Prompts and answers.
        comparison: Of these.
        depth: Drafts of a chain.

    Returns:
        The misreadings that explain the engine's numbers best; else what can be said.
    """
    explained = []
    ids = aux_layer_ids(target, head.config)
    layers = target.config.get_text_config().num_hidden_layers
    for misreading in list_misreadings(head, ids, layers):
        replayed = _replay(target, misread(head, misreading), asked, depth)
        distance = comparison.distance([run.rounds for run in replayed])
        if distance <= comparison.allowed:
            explained.append((distance, misreading.reason))
    reasons = []
    nearest = min(explained, default=(0, ""))[0]
    for distance, reason in explained:
        if distance == nearest:
            reasons.append(f"it accepts what would be accepted here with {reason}")
    if comparison.accepted <= NOISE_SHARE * comparison.accepted_here:
        reasons.append(NOISE)
    if not reasons and comparison.accepted > comparison.accepted_here:
        reasons.append("it accepts more than this head here: is it another head that it serves?")
    if not reasons:
        reasons.append(
            "no misreading that is known here explains the number; look at the findings above, and "
            "at the engine's log for tensors that it did not load"
        )
    return reasons


def _replay(target: Any, head: Eagle3DraftHead, asked: Asked, depth: int) -> list[Rounds]:
    """This package's rounds along the engine's texts."""
    texts = [answer.tokens for answer in asked.answers]
    return replay_chain(target, head, asked.prompts, texts, depth)


def is_same_text(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two answers are the same; engines differ in whether the last token is the stop."""
    common = min(len(one), len(other))
    is_close = abs(len(one) - len(other)) <= 1
    return is_close and list(one[:common]) == list(other[:common])
