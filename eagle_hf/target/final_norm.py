"""The target's final norm, by what it does.

H hidden.
"""

from typing import Any

import torch

from eagle_hf.target.matrices import execution_device
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
    decoder = text_decoder(target)
    names = [name for name in FINAL_NORMS if getattr(decoder, name, None) is not None]
    if not names:
        return None
    norm = getattr(decoder, names[0])
    model = unwrap(target)
    state = torch.ones(1, 1, width, device=execution_device(model), dtype=model.dtype)
    state[..., 1::2] = -1
    gain = (norm(state).float() - norm(-state).float()) / 2 * state.float()
    return gain[0, 0]
