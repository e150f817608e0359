"""What served answers are good for: examples by their token ids, conversations for people.

One example for each answered turn: its prompt as it was served, which is not learnt, and its answer
as it was sampled, which is. So no template renders anything again, and an end-of-turn token is
learnt only where the target said it.

    ids    <user> hi <end> <assistant> | hello <end>
    mask     0    0    0        0      |   1     1
"""

from collections.abc import Iterator
from pathlib import Path

from eagle_hf.data.answers.store import TURNS, TurnStore
from eagle_hf.data.answers.turns import MISSING, SERVED, FinishedTurn, OpenConversation
from eagle_hf.data.rows import Conversation, Example, SkippedRow


def served_examples(
    folder: str | Path, *, max_length: int | None = None, only_served: bool = False
) -> tuple[list[Example], list[SkippedRow]]:
    """Read a folder of served answers as training examples.

    Args:
        folder: that `write_served_responses` wrote.
        max_length: most tokens of an example. Default: no limit.
        only_served: leave out turns whose ids were recovered by tokenizing.

    Returns:
        `(examples, skipped)`: an example for each turn, called by its prompt's id and its turn, and
        every turn that gave none.

    Raises:
        ValueError: the folder holds no store.
    """
    examples = []
    skipped = []
    with _open(folder) as store:
        for prompt in store.prompts():
            for turn in store.turns(prompt["id"]):
                name = f"{turn.id}:{turn.turn}"
                reason = _unusable(turn, max_length, only_served)
                if reason is None:
                    examples.append(_example(name, turn))
                else:
                    skipped.append(SkippedRow(name, reason))
    return examples, skipped


def served_conversations(folder: str | Path) -> Iterator[Conversation]:
    """Read a folder of served answers as conversations in text.

    Args:
        folder: that `write_served_responses` wrote.

    Yields:
        Every conversation whose turns are all answered, without the target's reasoning.

    Raises:
        ValueError: the folder holds no store.
    """
    with _open(folder) as store:
        for prompt in store.prompts():
            conversation = OpenConversation(prompt, store.turns(prompt["id"]))
            is_whole = conversation.is_finished and conversation.ended_early is None
            if is_whole:
                yield {
                    "id": prompt["id"],
                    "messages": conversation.messages,
                    "source": prompt.get("source", "other"),
                    "category": prompt.get("category", "other"),
                }


def _open(folder: str | Path) -> TurnStore:
    """The store of a folder; ValueError where there is none."""
    path = Path(folder) / TURNS
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give a folder that write_served_responses wrote")
    return TurnStore(folder)


def _unusable(turn: FinishedTurn, max_length: int | None, only_served: bool) -> str | None:
    """Why a turn is no example; None where it is one."""
    sources = (turn.prompt_ids_from, turn.response_ids_from)
    if turn.is_empty:
        return "the response has zero tokens of text"
    if MISSING in sources:
        return "the server gave no token ids, and none were recovered"
    if only_served and sources != (SERVED, SERVED):
        return "its token ids were recovered by tokenizing"
    assert turn.prompt_ids is not None and turn.response_ids is not None, "neither is missing"
    length = len(turn.prompt_ids) + len(turn.response_ids)
    if max_length is not None and length > max_length:
        return f"{length} tokens, more than max_length {max_length}"
    return None


def _example(name: str, turn: FinishedTurn) -> Example:
    """A turn by its ids."""
    prompt_ids = turn.prompt_ids or []
    response_ids = turn.response_ids or []
    return {
        "id": name,
        "input_ids": prompt_ids + response_ids,
        "loss_mask": [0] * len(prompt_ids) + [1] * len(response_ids),
    }
