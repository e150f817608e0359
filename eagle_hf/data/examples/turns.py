"""A conversation as turns: for each answer the prompt, and the answer, by token.

Token ids are the data. A conversation that the target answered here was kept with its ids, and
nothing is rendered again. One from elsewhere is rendered and tokenised (see
templates/rendered_turns.py).

    prompt_ids                       response_ids    closing_ids
    <user> hi <end> <assistant>   |  hello <end>  |  newline

Two turns are one example where the second prompt goes on from the first answer, token by token.
Templates that render history anew (thinking modes do) have an example for each answer.
"""

from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from eagle_hf.data.examples.kept_answers import check_kept
from eagle_hf.data.rows import SkippedRow, describe_type

ROW_FORMAT = 2  # 1, the first, had messages alone and no number
# Where token ids come from.
SERVED = "served"  # whoever answered gave them
RECOVERED = "recovered"  # the text was tokenized; sampled ids may have been others
MISSING = "missing"  # nobody gave them, and tokenizing the text would not give the same
NO_IDS = (
    "has no token ids: the server gave none, and none were recovered that text and ids agree on; "
    "ask a server that gives ids, or drop served_turns to tokenise the text"
)


class Turn(NamedTuple):
    """One answer and what came before it.

    Attributes:
        prompt_ids: what the target was given, whole.
        response_ids: what it said, through the end-of-turn token where it said one. Only these are
            learnt.
        closing_ids: what the template writes behind it.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    closing_ids: list[int]


def until_end_of_turn(ids: list[int], stop: Container[int]) -> list[int]:
    """The ids up to and including the first one in `stop`, all of them where there is none."""
    for position, token in enumerate(ids):
        if token in stop:
            return ids[: position + 1]
    return ids


def has_ended(ids: list[int], stop: Container[int]) -> bool:
    """Whether an answer ends with a token in `stop`."""
    return bool(ids) and ids[-1] in stop


def served_turns(
    name: str,
    row: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    stop: Container[int],
    *,
    last_only: bool = False,
) -> tuple[list[Turn], list[SkippedRow]]:
    """The turns of a conversation that was kept with its ids.

    Args:
        name: of the conversation.
        row: a `Conversation` with `served_turns`.
        tokenizer: the target's.
        stop: tokens that end a turn.
        last_only: give the last turn alone. All of them are checked.

    Returns:
        `(turns, left_out)`: a turn for each answer with ids, and the answers without them.

    Raises:
        ValueError: the row is of a newer format, lacks a turn, or its answers were edited.
    """
    version = row.get("format")
    if version != ROW_FORMAT:
        raise ValueError(
            f"the row has served_turns and the format {version!r}, and {ROW_FORMAT} is read; "
            "update eagle_hf, or drop served_turns to tokenise the messages"
        )
    answers = [one for one in row["messages"] if one["role"] == "assistant"]
    served = row["served_turns"]
    if len(served) != len(answers):
        raise ValueError(
            f"the row has {len(answers)} answers and {len(served)} served_turns; one for each is "
            "needed"
        )
    turns = []
    left_out = []
    for number, (answer, one) in enumerate(zip(answers, served, strict=True), start=1):
        is_wanted = not last_only or number == len(answers)
        turn = None
        if not _has_no_ids(one):
            turn = Turn(_ids(one, "prompt_ids"), _ids(one, "response_ids"), [])
            check_kept(answer, one, tokenizer, stop)
        if turn is not None and is_wanted:
            turns.append(turn)
        elif is_wanted:
            left_out.append(SkippedRow(f"{name}, answer {number}", f"answer {number} {NO_IDS}"))
    return turns, left_out


def _has_no_ids(turn: Any) -> bool:
    """Whether a server gave no ids for a turn, and says so."""
    if not isinstance(turn, Mapping):
        return False
    return MISSING in (turn.get("prompt_ids_from"), turn.get("response_ids_from"))


def _ids(turn: Mapping[str, Any], name: str) -> list[int]:
    """Token ids of a served turn."""
    ids = turn.get(name) if isinstance(turn, Mapping) else None
    if not isinstance(ids, list) or not ids:
        raise ValueError(f"{name} of a turn is {describe_type(ids)}; token ids are needed")
    return ids


def merge_turns(turns: Sequence[Turn]) -> list[list[Turn]]:
    """Put turns together that are one text to the target.

    Args:
        turns: of one conversation, in order.

    Returns:
        Groups. In each, every prompt goes on from the answer before it.
    """
    groups: list[list[Turn]] = []
    for turn in turns:
        if groups and _goes_on(groups[-1][-1], turn):
            groups[-1].append(turn)
        else:
            groups.append([turn])
    return groups


def _goes_on(earlier: Turn, later: Turn) -> bool:
    """Whether the later prompt begins with the earlier prompt and answer."""
    said = earlier.prompt_ids + earlier.response_ids
    return later.prompt_ids[: len(said)] == said
