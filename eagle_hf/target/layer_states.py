"""The states of one text between the target's layers, counted as inference engines count them.

State i is what i layers have made of a token: state 0 is its embedding, as it enters the first
layer, and state n what the last of n layers puts out, before the final norm. HF's
`hidden_states[n]` is another thing: it stands behind the norm.

S tokens, H hidden size, n layers.
"""

from collections.abc import Sequence
from typing import Any

import torch

from eagle_hf.target.aux_hidden_states import capture_aux
from eagle_hf.target.final_norm import apply_final_norm, find_final_norm
from eagle_hf.target.matrices import execution_device
from eagle_hf.target.structure import decoder_layers, text_decoder, unwrap

# Largest difference of the norm that is applied here and the target's own, by any state.
NORM_TOLERANCE = 1e-2


@torch.no_grad()
def read_layer_states(
    target: Any, input_ids: torch.Tensor, state_ids: Sequence[int]
) -> list[torch.Tensor]:
    """Read some states of a text, in one forward.

    Args:
        target: A causal LM in eval mode.
        input_ids: Tokens [S].
        state_ids: From 0 to n.

    Returns:
        The states [S, H], in the order of `state_ids`.

    Raises:
        ValueError: The target has no final norm that can be applied by itself.
    """
    last = len(decoder_layers(target))
    norm = find_final_norm(target)
    if norm is None:
        raise ValueError(
            f"{type(unwrap(target)).__name__} has no final norm that this package knows, so what "
            "an engine gives of its last layer cannot be made the states its LM head reads; "
            "capture its states in process"
        )
    entering = sorted(set(state_ids) - {last})
    before_norm: list[torch.Tensor] = []

    def keep(module: Any, args: tuple) -> None:
        before_norm.append(args[0])

    rows = input_ids.to(execution_device(target))[None]  # [1, S]
    handle = norm.register_forward_pre_hook(keep)
    try:
        with capture_aux(target, entering or [0]) as aux:
            final = text_decoder(target)(input_ids=rows, use_cache=False).last_hidden_state
    finally:
        handle.remove()
    _check_norm(target, before_norm, final)
    states = aux.take()
    assert states is not None, "at least one layer is asked for"
    parts = states[0].chunk(len(entering) or 1, dim=-1)  # [S, H] each
    by_id = dict(zip(entering or [0], parts, strict=True)) | {last: before_norm[0][0]}
    return [by_id[state_id] for state_id in state_ids]


def _check_norm(target: Any, before: list[torch.Tensor], final: torch.Tensor) -> None:
    """Refuse a target whose final states are not its final norm's output."""
    is_norm = len(before) == 1 and before[0].shape == final.shape
    if is_norm:
        ours = apply_final_norm(target, before[0])
        difference = (ours.float() - final.float()).norm() / final.float().norm()
        is_norm = bool(difference <= NORM_TOLERANCE)
    if not is_norm:
        raise ValueError(
            f"the final states of {type(unwrap(target)).__name__} are not what its final norm "
            "makes of its last layer, so an engine's states cannot be made final states; capture "
            "them in process"
        )
