"""The target's logits, computed from its final-normed states by its own LM head.

H hidden, V target vocabulary, U draft vocabulary, N tokens.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from eagle_hf.target.matrices import has_plain_matrix, in_memory, module_inputs
from eagle_hf.target.structure import unwrap

LOGITS_AT_ONCE = 2**23  # 34 MB in float32: a fast matrix product, and little beside any target
# Names under which configs say what a model's forward does behind its LM head. `check_teacher`
# refuses a target whose forward does something else.
MULTIPLIERS = ("logit_scale", "lm_head_multiplier", "output_multiplier")  # Cohere; Falcon-H1; Muse
DIVISORS = ("logits_scaling", "logits_mup_width_multiplier")  # Granite, MiniCPM 3; Inkling
# Gemma 2 and others; RecurrentGemma; xLSTM
CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
SCALING = MULTIPLIERS + DIVISORS + CAPS
# In the config of these model types or of their text part, but not in their forward.
UNUSED = {
    "mpt": "logit_scale",
    "aya_vision": "logit_scale",
    "cohere2_vision": "logit_scale",
    "gemma3": "final_logit_softcapping",
    "shieldgemma2": "final_logit_softcapping",
}
MULTIPLYING = ("hyperclovax",)  # the text models that multiply by what others divide by

Logits = Callable[[torch.Tensor], torch.Tensor]


def target_logits(target: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """Compute logits as the target scales them.

    Args:
        target: A causal LM.
        hidden_states: Final-normed states [..., H].

    Returns:
        Logits [..., V], on the device of the states.
    """
    model = unwrap(target)
    lm_head = model.get_output_embeddings()
    device, dtype = module_inputs(model, lm_head)
    logits = lm_head(hidden_states.to(device, dtype))
    return _scale(target, logits).to(hidden_states.device)


def draft_vocab_logits(target: Any, token_ids: torch.Tensor) -> Logits:
    """Make a function that computes the logits of some tokens alone.

    Args:
        target: A causal LM.
        token_ids: Target ids [U]. The LM head's rows for them are gathered once, here.

    Returns:
        A function from final-normed states [..., H] to logits [..., U].
    """
    lm_head = unwrap(target).get_output_embeddings()
    vocab_size = unwrap(target).config.get_text_config().vocab_size
    if len(token_ids) == vocab_size:
        return partial(target_logits, target)
    if not has_plain_matrix(lm_head):  # quantised, or with an adapter: no rows to gather
        return partial(_select_logits, target, token_ids)
    with in_memory(lm_head):
        ids = token_ids.to(lm_head.weight.device)
        weight = lm_head.weight[ids]  # [U, H]
        bias = None if lm_head.bias is None else lm_head.bias[ids]  # [U]
    return partial(_gathered_logits, target, weight, bias)


def _select_logits(
    target: Any, token_ids: torch.Tensor, hidden_states: torch.Tensor
) -> torch.Tensor:
    """All logits, of which those of `token_ids` are taken."""
    return target_logits(target, hidden_states)[..., token_ids]


def _gathered_logits(
    target: Any, weight: torch.Tensor, bias: torch.Tensor | None, hidden_states: torch.Tensor
) -> torch.Tensor:
    """The logits of the gathered rows [U, H] alone."""
    states = hidden_states.to(weight.device, weight.dtype)
    logits = nn.functional.linear(states, weight, bias)  # [..., U]
    return _scale(target, logits).to(hidden_states.device)


def _scale(target: Any, logits: torch.Tensor) -> torch.Tensor:
    """What the model's own forward does to the LM head's output."""
    factor, cap = logit_scaling(target)
    if factor != 1:
        logits = logits * factor
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits


def logit_scaling(target: Any) -> tuple[float, float | None]:
    """Return what a model's forward does to its LM head's output.

    Args:
        target: A causal LM.

    Returns:
        (what the logits are multiplied by, what caps them then, or None).
    """
    whole = unwrap(target).config
    config = whole.get_text_config()
    unused = (UNUSED.get(whole.model_type), UNUSED.get(config.model_type))
    factor = 1.0
    cap = None
    for name in SCALING:
        # this runs for every drafted token, and asking a config for what it lacks is slow
        is_there = name in vars(config) or hasattr(type(config), name)
        value = getattr(config, name) if is_there and name not in unused else None
        if not value:
            continue
        if name in CAPS:
            cap = value
        elif name in MULTIPLIERS or config.model_type in MULTIPLYING:
            factor *= value
        else:
            factor /= value
    return factor, cap


@torch.no_grad()
def next_token_summary(
    target: Any, hidden_states: torch.Tensor, normaliser: bool = True
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Summarise the target's next-token distributions over its whole vocabulary.

    Some tokens at a time, so that never more than `LOGITS_AT_ONCE` logits are held.

    Args:
        target: A causal LM.
        hidden_states: Final-normed states [N, H].
        normaliser: Whether to compute the second result.

    Returns:
        (most probable tokens [N] int64, log-sum-exp of the logits [N] float32 or None).
    """
    vocab_size = unwrap(target).config.get_text_config().vocab_size
    at_once = max(1, LOGITS_AT_ONCE // vocab_size)
    best = torch.empty(len(hidden_states), dtype=torch.long, device=hidden_states.device)
    log_sums = None
    if normaliser:
        log_sums = torch.empty(len(hidden_states), dtype=torch.float32, device=hidden_states.device)
    for start in range(0, len(hidden_states), at_once):
        part = slice(start, start + at_once)
        logits = target_logits(target, hidden_states[part])  # [at_once, V]
        best[part] = logits.max(-1).indices  # argmax: 6x slower in bf16 on a CPU
        if log_sums is not None:
            log_sums[part] = logits.float().logsumexp(-1)
    return best, log_sums
