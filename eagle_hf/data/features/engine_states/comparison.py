"""Whether an engine's states are the target's: a text is read by both, and compared.

Engines count layers in different ways, from one model to the next, and their files do not say
whose states they hold. So the target reads the shortest and the longest text once more.

S tokens, H hidden size, n states of a token.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from eagle_hf.data.features.capture_plan import PlannedConversation
from eagle_hf.target import decoder_layers, read_layer_states, unwrap

# Largest difference to the target's own states, the mean over tokens, as a share of their norm.
# Other kernels round differently: SmolLM2-135M on vLLM's CPU build was off by 2e-6 in float32 and
# 3e-2 in bfloat16. Its neighbouring layers are 0.25 and more apart.
TOLERANCES = {torch.bfloat16: 0.1, torch.float16: 0.05}
TOLERANCE = 0.01
WORST_TOKEN = 0.5  # of any one token; 0.11 was seen in bfloat16
TINY = 1e-30  # keeps divisions by a state of zeros finite
SEARCHED_TOKENS = 64  # of a text whose states differ, to find out which states they are


def shortest_and_longest(
    conversations: Sequence[PlannedConversation],
) -> tuple[PlannedConversation, PlannedConversation]:
    """Choose the texts that are compared: the longest is what an engine may read in chunks."""
    return min(conversations, key=_length_of), max(conversations, key=_length_of)


def _length_of(conversation: PlannedConversation) -> int:
    return conversation.length


def check_form(
    place: str, form: tuple[int, int, torch.dtype], target: PreTrainedModel, state_ids: list[int]
) -> None:
    """Refuse states that cannot be those of a target, by their sizes and dtype.

    Args:
        place: where they are, for the error.
        form: the number of states of a token, their hidden size and dtype.
        target: whose states are wanted.
        state_ids: that are wanted.

    Raises:
        ValueError: says what was found and what is needed.
    """
    num_states, hidden_size, dtype = form
    wanted = (len(state_ids), unwrap(target).config.get_text_config().hidden_size)
    if (num_states, hidden_size) != wanted:
        raise ValueError(
            f"{place} holds {num_states} states of {hidden_size} values a token, and {wanted[0]} "
            f"of {wanted[1]} are needed: have the engine write the states {state_ids} of this "
            "target"
        )
    if dtype != target.dtype:
        raise ValueError(
            f"{place} holds states in {dtype} and the target computes in {target.dtype}; open the "
            "target in the engine's dtype, or run the engine in the target's"
        )


def check_states(
    place: str,
    target: PreTrainedModel,
    input_ids: torch.Tensor,
    states: torch.Tensor,
    state_ids: list[int],
) -> None:
    """Refuse states of a text that are not the target's.

    Args:
        place: where they are, for the error.
        target: in eval mode.
        input_ids: tokens [S].
        states: of an engine, [S, n, H].
        state_ids: what they should be.

    Raises:
        ValueError: says what they are.
    """
    differing = differing_states(target, input_ids, states, state_ids)
    if differing:
        raise ValueError(
            f"{place} holds other states than {state_ids} of the target: {differing}; have the "
            "engine write these states of this very target"
        )


def differing_states(
    target: PreTrainedModel,
    input_ids: torch.Tensor,
    states: torch.Tensor,
    state_ids: Sequence[int],
) -> str | None:
    """Say how the states of a text differ from the target's.

    Args:
        target: in eval mode.
        input_ids: tokens [S].
        states: of an engine, [S, n, H].
        state_ids: what they should be, as `read_layer_states` counts them.

    Returns:
        The difference as a sentence; None where there is none.
    """
    tolerance = TOLERANCES.get(target.dtype, TOLERANCE)
    differences = []
    for number, own in enumerate(read_layer_states(target, input_ids, state_ids)):
        differences.append(_difference(states[:, number], own))  # [S] each
    if all(_is_same(difference, tolerance) for difference in differences):
        return None
    found = []
    for number, state_id in enumerate(state_ids):
        nearest = _nearest_state(target, input_ids, states[:, number], tolerance)
        worst = int(differences[number].argmax())
        found.append(
            f"state {state_id} is off by {differences[number].mean():.1%}, by "
            f"{differences[number][worst]:.1%} at position {worst}, {nearest}"
        )
    return "; ".join(found)


def _is_same(difference: torch.Tensor, tolerance: float) -> bool:
    """Whether states that are so far apart [S] differ by rounding alone."""
    return bool(difference.mean() <= tolerance and difference.max() <= WORST_TOKEN)


def _difference(states: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """How far apart states [S, H] are, as a share of the norm of the second, shape [S]."""
    own = own.float()
    distance = (states.to(own.device).float() - own).norm(dim=-1)  # [S]
    return distance / own.norm(dim=-1).clamp(min=TINY)


def _nearest_state(
    target: PreTrainedModel, input_ids: torch.Tensor, states: torch.Tensor, tolerance: float
) -> str:
    """Which of the target's states these [S, H] are, as words."""
    start = slice(0, SEARCHED_TOKENS)  # causality: the states of a beginning are the same
    candidates = list(range(len(decoder_layers(target)) + 1))
    differences = []
    for own in read_layer_states(target, input_ids[start], candidates):
        differences.append(float(_difference(states[start], own).mean()))
    smallest = min(differences)
    if smallest <= tolerance:
        return f"and is the target's state {differences.index(smallest)}"
    return "and none of the target's"
