"""Which conversations a cycle learns, replays, and holds out.

The newest share of the new ones is held out: nobody has learnt it, neither the current head nor the
candidate. In the next cycle it is no longer the newest, and is learnt. What a lost cycle trained on
has not been learnt by any version, so the next one takes it again.

A prompt that is held out is not trained on under another answer, and is measured once.
"""

import random
from typing import NamedTuple

from eagle_hf.following.pool import Arrival, Pool
from eagle_hf.following.settings import LEAST_HELD_OUT, FollowSettings


class Split(NamedTuple):
    """The conversations of a cycle, by their numbers.

    Attributes:
        learnt: that no version has learnt yet.
        replayed: older ones beside them.
        held_out: that both heads are measured on.
        boundary: the last conversation before those held out.
        newest: the last conversation of all.
    """

    learnt: list[int]
    replayed: list[int]
    held_out: list[int]
    boundary: int
    newest: int


class Waiting(NamedTuple):
    """Why no cycle begins."""

    reason: str


def choose_split(pool: Pool, settings: FollowSettings, cycle: int) -> Split | Waiting:
    """Choose the conversations of a cycle.

    Args:
        pool: of all conversations.
        settings: how many.
        cycle: its number; the replayed ones are drawn anew in each.

    Returns:
        The split, or why there is too little for one.
    """
    begin = max(pool.judged_up_to(), pool.older_up_to())
    new = pool.arrivals(begin)
    if len(new) < settings.min_new:
        return Waiting(
            f"nothing new to learn: {len(new)} new conversations, a cycle begins with "
            f"{settings.min_new}"
        )
    wanted = round(settings.held_out * len(new))
    wanted = min(settings.most_held_out, max(LEAST_HELD_OUT, wanted))
    held_out = newest_prompts(new, wanted)
    if len(held_out) < wanted:
        return Waiting(
            f"nothing to measure on yet: the {len(new)} new conversations have {len(held_out)} "
            f"different prompts whose answer has two tokens, and {wanted} are held out"
        )
    first = min(held_out.values())
    learnt = []
    for arrival in pool.arrivals(pool.older_up_to()):
        if arrival.number < first and arrival.prompt not in held_out:
            learnt.append(arrival.number)
    if not learnt:
        return Waiting(
            f"nothing to train on yet: the {len(new)} new conversations have {len(held_out)} "
            "different prompts, and all of them are held out"
        )
    replayed = _draw_older(pool, held_out, len(learnt), settings, cycle)
    numbers = sorted(held_out.values())
    return Split(learnt, replayed, numbers, first - 1, new[-1].number)


def newest_prompts(new: list[Arrival], wanted: int) -> dict[str, int]:
    """Choose the newest conversation of each of the newest prompts.

    Args:
        new: conversations in the order of their arrival.
        wanted: how many prompts.

    Returns:
        Numbers of conversations by prompt; fewer than wanted where there are no more.
    """
    chosen: dict[str, int] = {}
    for arrival in reversed(new):
        if len(chosen) == wanted:
            break
        if arrival.prompt is not None and arrival.prompt not in chosen:
            chosen[arrival.prompt] = arrival.number
    return chosen


def _draw_older(
    pool: Pool, held_out: dict[str, int], learnt: int, settings: FollowSettings, cycle: int
) -> list[int]:
    """So many older conversations that they are the wanted share of those trained on."""
    candidates = []
    for arrival in pool.older():
        if arrival.prompt not in held_out:
            candidates.append(arrival.number)
    wanted = round(settings.replay / (1 - settings.replay) * learnt)
    generator = random.Random(f"{settings.seed} {cycle}")
    return sorted(generator.sample(candidates, min(wanted, len(candidates))))
