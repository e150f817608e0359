"""The target's final norm, by what it does.

H hidden.
"""

from typing import Any

import torch
from torch import nn

from eagle_hf.target.matrices import execution_device, module_inputs
from eagle_hf.target.structure import text_decoder, unwrap

FINAL_NORMS = (
    "norm",  # Llama and most others
    "final_layernorm",  # Phi, Falcon-H1
    "final_layer_norm",  # OPT, NeoX
    "ln_f",  # GPT-2, Falcon
    "norm_f",  # MPT, Mamba
    "layer_norm",  # BioGPT
    "final_norm",  # RecurrentGemma
    "embedding_norm",  # LFM2
    "layernorm",  # CTRL
    "ln_out",  # RWKV
    "out_norm",  # xLSTM
)


def find_final_norm(target: Any) -> nn.Module | None:
    """Return the norm behind the target's last layer, None where it has none.

    Args:
        target: A causal LM.
    """
    decoder = text_decoder(target)
    for name in FINAL_NORMS:
        norm = getattr(decoder, name, None)
        if norm is not None:
            return norm
    return None


@torch.no_grad()
def apply_final_norm(target: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """Apply the target's final norm to what its last layer puts out.

    Args:
        target: A causal LM that `read_layer_states` can read.
        hidden_states: Of the last layer, [..., H].

    Returns:
        Final-normed states [..., H], on the device of the states.
    """
    norm = find_final_norm(target)
    assert norm is not None, "read_layer_states refuses such a target"
    device, _ = module_inputs(unwrap(target), norm)
    return norm(hidden_states.to(device)).to(hidden_states.device)


@torch.no_grad()
def final_norm_gain(target: Any, width: int) -> torch.Tensor | None:
    """Measure what the target's final norm multiplies every dimension by.

    Some norms keep the gain less one, and some have none. So the norm is asked, not its weight: a
    state of ones with alternating signs is normed already, and an RMSNorm or LayerNorm returns the
    gain with those signs, and a bias, which the difference to the negated state lacks.

    Args:
        target: A causal LM.
        width: H, the width of its final states.

    Returns:
        The gain [H], float32; None where the target has no final norm.
    """
    norm = find_final_norm(target)
    if norm is None:
        return None
    model = unwrap(target)
    state = torch.ones(1, 1, width, device=execution_device(model), dtype=model.dtype)
    state[..., 1::2] = -1
    gain = (norm(state).float() - norm(-state).float()) / 2 * state.float()
    return gain[0, 0]
