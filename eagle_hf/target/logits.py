"""The target's logits, computed from its final-normed states by its own LM head.

H hidden, V target vocabulary, U draft vocabulary, N tokens.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from eagle_hf.target.modules import has_plain_matrix, in_memory, module_inputs
from eagle_hf.target.structure import unwrap

LOGITS_AT_ONCE = 2**23  # 34 MB in float32: a fast matrix product, and little beside any target
# Names under which configs say what a model's forward does behind its LM head. `check_teacher`
# refuses a target whose forward does something else.
MULTIPLIERS = ("logit_scale", "lm_head_multiplier", "output_multiplier")  # Cohere; Falcon-H1; Muse
DIVISORS = ("logits_scaling", "logits_mup_width_multiplier")  # Granite, MiniCPM 3; Inkling
CAPS = ("final_logit_softcapping", "logits_soft_cap")  # Gemma 2 and others; RecurrentGemma
UNUSED = {"mpt": ("logit_scale",)}  # in the config of a model type, but not in its forward
MULTIPLYING = ("hyperclovax",)  # the model types that multiply by what the others divide by

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
        weight = lm_head.weight[token_ids]  # [U, H]
        bias = None if lm_head.bias is None else lm_head.bias[token_ids]  # [U]
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
    config = unwrap(target).config.get_text_config()
    factor = logit_factor(config)
    if factor != 1:
        logits = logits * factor
    for name in CAPS:
        cap = getattr(config, name, None)
        if cap:
            logits = torch.tanh(logits / cap) * cap
    return logits


def logit_factor(config: Any) -> float:
    """Return what a model multiplies its LM head's output by, before any cap.

    Args:
        config: A text model's config.
    """
    factor = 1.0
    for name in MULTIPLIERS:
        if name not in UNUSED.get(config.model_type, ()):
            factor *= getattr(config, name, None) or 1
    for name in DIVISORS:
        divisor = getattr(config, name, None) or 1
        factor = factor * divisor if config.model_type in MULTIPLYING else factor / divisor
    return factor


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
