"""In which mode a model verifies or drafts.

Training mode changes forwards in two ways that drafting cannot bear: gradient checkpointing drops
the cache, and dropout makes logits random, so that no two forwards agree. A model in training mode
with neither of them computes what it does in eval mode.
"""

from typing import Any

from torch import nn

from eagle_hf.target import unwrap

RANDOM_SETTINGS = ("drop", "jitter")  # parts of the names of what draws random numbers


def check_mode(model: Any, role: str) -> None:
    """Refuse a model whose mode drops its cache, or makes its logits random.

    Args:
        model: a causal LM, with or without wrappers.
        role: what the message calls it: "target", "draft model".
    """
    for name, module in unwrap(model).named_modules():
        if not module.training:
            continue
        if getattr(module, "gradient_checkpointing", False):
            raise ValueError(
                f"the {role} is in training mode with gradient checkpointing, which drops the "
                "cache that speculation needs; call eval() on it first"
            )
        setting = _random_setting(module)
        if setting:
            raise ValueError(
                f"the {role} is in training mode and {name or type(module).__name__} has "
                f"{setting}: its logits are random, so there are no tokens of its own to keep; "
                "call eval() on it first"
            )


def _random_setting(module: nn.Module) -> str | None:
    """What makes a module random in training mode, as "name=value"; None for nothing."""
    if isinstance(module, nn.Dropout):
        return f"p={module.p}" if module.p else None
    for name, value in vars(module).items():
        is_random = any(part in name for part in RANDOM_SETTINGS)
        if is_random and isinstance(value, float) and value > 0:
            return f"{name}={value}"
    return None
