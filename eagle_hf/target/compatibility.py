"""Whether a head can draft for a target."""

from typing import Any

from eagle_hf.head.configuration import Eagle3Config
from eagle_hf.head.target_settings import target_size
from eagle_hf.target.structure import check_lm_head, unwrap


def check_compatible(target: Any, head_config: Eagle3Config) -> None:
    """Check that a head can draft for a target.

    Args:
        target: A causal LM.
        head_config: The head's config.

    Raises:
        ValueError: It cannot. The message names the first reason.
    """
    _check_sizes(unwrap(target).config.get_text_config(), head_config)
    peft_config: Any = getattr(target, "active_peft_config", None)
    if getattr(peft_config, "is_prompt_learning", False):
        raise ValueError(
            f"the target carries a prompt-learning adapter ({peft_config.peft_type.value}), whose "
            "virtual tokens a draft head never sees; use an adapter that changes weights (LoRA)"
        )
    check_lm_head(target)


def _check_sizes(config: Any, head_config: Eagle3Config) -> None:
    """Refuse a target of other sizes than those that the head was made for, as far as it says."""
    remedy = "use the head trained for this target, or train one: Eagle3Config.from_target(target)"
    resized = (
        "if its embeddings were resized and the common ids mean the same, say so: "
        f"Eagle3DraftHead.from_pretrained(head, vocab_size={config.vocab_size}) or "
        f"head.resize_vocabulary({config.vocab_size}); otherwise {remedy}"
    )
    layers = (head_config.eagle_hf or {}).get("target_num_hidden_layers")
    hidden_size = target_size(config, "hidden_size")
    layer_count = target_size(config, "num_hidden_layers")
    sizes = [
        ("hidden size", head_config.target_hidden_size, hidden_size, remedy),
        ("layer count", layers, layer_count, remedy),
        ("vocabulary", head_config.vocab_size, config.vocab_size, resized),
    ]
    for what, expected, found, advice in sizes:
        if expected is not None and expected != found:
            raise ValueError(
                f"the head was made for a target with {what} {expected}, this target's is "
                f"{found}; {advice}"
            )
