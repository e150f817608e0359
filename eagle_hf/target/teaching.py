"""Whether a head can learn from a target.

Training takes a target's hidden states where it expects them, and computes logits from the final
ones by the LM head. Not every model is built like that. So a few random tokens are read once,
before anything is learnt or written, and both are compared with what the model itself says.

S tokens, H hidden, V vocabulary.
"""

from typing import Any

import torch

from eagle_hf.target.aux_hidden_states import capture_aux, target_states
from eagle_hf.target.logits import target_logits
from eagle_hf.target.structure import unwrap

PROBED_TOKENS = 8
SPECIAL = ("token_id", "token_index")  # endings of settings that name tokens with a meaning
# Largest difference of two ways to the same logits, as a share of the largest logit.
TOLERANCES = {torch.bfloat16: 2e-2, torch.float16: 1e-2}
TOLERANCE = 1e-3


@torch.no_grad()
def check_teacher(target: Any, layer_ids: list[int]) -> None:
    """Check that a target's states and logits are what a head learns from.

    It costs two forwards of a few tokens.

    Args:
        target: A causal LM in eval mode.
        layer_ids: HF `hidden_states` indices that the head reads.

    Raises:
        ValueError: They are not. The message says what was found.
    """
    model = unwrap(target)
    if model.get_output_embeddings() is None:
        raise ValueError(
            f"{type(model).__name__} has no LM head; load it with AutoModelForCausalLM"
        )
    input_ids = _ordinary_tokens(model)  # [1, S]
    with capture_aux(target, layer_ids):
        pass  # raises where the target's layers cannot be read
    width = model.get_input_embeddings()(input_ids).shape[-1]
    states = _read_states(target, input_ids, layer_ids, width)  # [1, S, H]
    _check_logits(target, input_ids, states)


def _ordinary_tokens(model: Any) -> torch.Tensor:
    """Random tokens [1, S] without a meaning of their own, as that of an image."""
    config = model.config.get_text_config()
    special = set()
    for name, value in (model.config.to_dict() | config.to_dict()).items():
        if name.endswith(SPECIAL) and isinstance(value, int):
            special.add(value)
    own = torch.Generator().manual_seed(0)  # leaves the caller's random numbers alone
    tokens = torch.randperm(config.vocab_size, generator=own).tolist()
    ordinary = [token for token in tokens if token not in special]
    return torch.tensor([ordinary[:PROBED_TOKENS]], device=model.device)


def _read_states(
    target: Any, input_ids: torch.Tensor, layer_ids: list[int], width: int
) -> torch.Tensor:
    """The final states [1, S, H]; refuses states of other shapes than heads read."""
    aux, states = target_states(target, input_ids, layer_ids)
    name = type(unwrap(target)).__name__
    expected = (*input_ids.shape, len(layer_ids) * width)
    if aux.shape != expected:
        raise ValueError(
            f"the states that enter layers {layer_ids} of {name} are {list(aux.shape)} together, "
            f"not {list(expected)}: it carries several states a token, or states of another width "
            f"than its embeddings' {width}. A head reads one of that width from each layer; use "
            "another target, or plain decoding"
        )
    if states.shape != (*input_ids.shape, width):
        raise ValueError(
            f"the final states of {name} are {list(states.shape)}, not "
            f"{[*input_ids.shape, width]}: a head's LM head starts from the target's and reads "
            "states of its width; use another target, or plain decoding"
        )
    return states


def _check_logits(target: Any, input_ids: torch.Tensor, states: torch.Tensor) -> None:
    """Refuse a target whose logits are not those that its LM head makes of its final states."""
    model = unwrap(target)
    theirs = model(input_ids=input_ids, use_cache=False).logits  # [1, S, V]
    ours = target_logits(target, states).to(theirs.device)
    if ours.shape == theirs.shape:
        largest = theirs.abs().nan_to_num(0).max()
        tolerance = float(largest) * TOLERANCES.get(model.dtype, TOLERANCE)
        # NaN is named where it is met: in a batch, with its conversations
        if torch.allclose(ours.float(), theirs.float(), rtol=0, atol=tolerance, equal_nan=True):
            return
    raise ValueError(
        f"{type(model).__name__} gives other logits than its LM head makes of its final states. "
        "Its forward does more to them than this package knows, so a head would learn wrong "
        "probabilities; use another target, or plain decoding"
    )
