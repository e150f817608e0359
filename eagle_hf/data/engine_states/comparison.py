"""Whether an engine's states are the target's: a text is read by both, and compared.

Engines count layers in different ways, from one model to the next, and their files do not say
whose states they hold. So the target reads the shortest and the longest text once more.

S tokens, H hidden size, n states of a token.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from eagle_hf.target import decoder_layers, read_layer_states

# Largest difference to the target's own states, as a share of their norm; of neighbouring layers
# it is larger. Other kernels round differently: SmolLM2-135M on vLLM's CPU build was off by at most
# 3e-6 in float32 and 9e-3 in bfloat16.
TOLERANCES = {torch.bfloat16: 0.1, torch.float16: 0.05}
TOLERANCE = 0.01
SEARCHED_TOKENS = 64  # of a text whose states differ, to find out which states they are


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
    own = read_layer_states(target, input_ids, state_ids)
    differences = []
    for number, state in enumerate(own):
        differences.append(_difference(states[:, number], state))
    if max(differences) <= tolerance:
        return None
    found = []
    for number, state_id in enumerate(state_ids):
        nearest = _nearest_state(target, input_ids, states[:, number], tolerance)
        found.append(f"state {state_id} is off by {differences[number]:.1%}, {nearest}")
    return "; ".join(found)


def _difference(states: torch.Tensor, own: torch.Tensor) -> float:
    """How far apart states [S, H] are: the mean over tokens, as a share of the norm."""
    own = own.float()
    distance = (states.to(own.device).float() - own).norm(dim=-1)  # [S]
    return float((distance / own.norm(dim=-1).clamp(min=1e-30)).mean())


def _nearest_state(
    target: PreTrainedModel, input_ids: torch.Tensor, states: torch.Tensor, tolerance: float
) -> str:
    """Which of the target's states these [S, H] are, as words."""
    start = slice(0, SEARCHED_TOKENS)  # causality: the states of a beginning are the same
    candidates = list(range(len(decoder_layers(target)) + 1))
    differences = []
    for own in read_layer_states(target, input_ids[start], candidates):
        differences.append(_difference(states[start], own))
    smallest = min(differences)
    if smallest <= tolerance:
        return f"and is the target's state {differences.index(smallest)}"
    return "and none of the target's"
