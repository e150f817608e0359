"""Calls by how sure the target is of its own answers: three tiers of as many calls each.

Drafts are accepted where the target is sure. So the tiers say how a method will do on texts of
another kind, which categories of one suite do not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from eagle_hf.evaluation.side_by_side.kept import GroupAnswer, Setting

TIERS = ("low", "mid", "high")


@dataclass(frozen=True)
class Tier:
    """Some calls of a setting.

    Attributes:
        groups: what was answered.
        low, high: the least and the largest mean entropy of these calls, nats a token.
    """

    groups: frozenset[tuple[Setting, tuple[str, ...]]]
    low: float
    high: float


def entropy_tiers(answers: Sequence[GroupAnswer]) -> dict[str, Tier]:
    """The terciles of a setting's calls, by the entropy of plain decoding's answers.

    Args:
        answers: of one setting.

    Returns:
        Tiers by the names of TIERS; none where there are fewer than three calls.
    """
    known = []
    for answer in answers:
        if answer.entropy is not None:
            known.append((answer.entropy, answer.group))
    known.sort(key=_entropy)
    count = len(known)
    if count < len(TIERS):
        return {}
    tiers = {}
    for number, name in enumerate(TIERS):
        start = number * count // len(TIERS)
        end = (number + 1) * count // len(TIERS)
        members = known[start:end]
        groups = frozenset(group for _, group in members)
        tiers[name] = Tier(groups, members[0][0], members[-1][0])
    return tiers


def _entropy(known: tuple[float, tuple[Setting, tuple[str, ...]]]) -> float:
    """What calls are ordered by."""
    return known[0]
