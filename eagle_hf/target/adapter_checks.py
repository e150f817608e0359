"""PEFT adapters whose output for a token depends on more than its prefix.

Most adapters change weights, or compute token by token: whatever reads a model may ignore them.
Those named here do not.
"""

from typing import Any

from eagle_hf.target.structure import unwrap

# Kinds that compute another output where tokens are read together, and what they do.
WHOLE_FORWARDS = {
    "LILY": "mixes its experts over all tokens that are read together",
    "SHADOW": "runs a model beside the target, with a cache of its own",
    "XLORA": "reads every text twice, without a cache",
}


def active_adapters(model: Any) -> dict[str, Any]:
    """Return the adapters that take part in a model's forward.

    Args:
        model: A model, with or without wrappers.

    Returns:
        The PEFT config of each by its name. Adapters that virtual tokens make up are not found:
        they are in no layer.
    """
    base = unwrap(model)
    configs = getattr(base, "peft_config", None)
    if not configs:
        return {}
    names = set()
    for module in base.modules():
        names.update(adapters_of(module))
    return {name: configs[name] for name in sorted(names) if name in configs}


def adapters_of(module: Any) -> list[str]:
    """Return the names of the adapters that take part in one layer's forward.

    Args:
        module: Any module.
    """
    active = getattr(module, "active_adapters", None)
    # transformers gives every model a method of this name
    return active if isinstance(active, list) and not module.disable_adapters else []


def is_activated_lora(config: Any) -> bool:
    """Return whether a PEFT config is of an activated LoRA.

    Args:
        config: The PEFT config.
    """
    return bool(getattr(config, "alora_invocation_tokens", None))


def has_activated_lora(model: Any) -> bool:
    """Return whether a model carries an activated LoRA, for all of its rows or for some.

    Args:
        model: A model, with or without wrappers.
    """
    configs = getattr(unwrap(model), "peft_config", None) or {}
    return any(is_activated_lora(config) for config in configs.values())


def check_adapters(model: Any) -> None:
    """Check that reading tokens together gives what reading them one by one does.

    Args:
        model: A model, with or without wrappers.

    Raises:
        ValueError: An active adapter computes something else then.
    """
    for name, config in active_adapters(model).items():
        kind = _kind(config)
        if kind in WHOLE_FORWARDS:
            raise ValueError(
                f"the adapter {name!r} is of the kind {kind}, which {WHOLE_FORWARDS[kind]}: its "
                "tokens can neither be drafted nor learnt in batches; disable it, or use an "
                "adapter that changes weights (LoRA)"
            )


def check_adapters_outside_generate(model: Any) -> None:
    """Check that a forward without the help of PEFT's `generate` has the model's own states.

    Args:
        model: A model, with or without wrappers.

    Raises:
        ValueError: An active adapter needs to know more than the tokens, or more than one forward.
    """
    check_adapters(model)
    for name, config in active_adapters(model).items():
        if is_activated_lora(config):
            raise ValueError(
                f"the adapter {name!r} is an activated LoRA, which works from its "
                "alora_invocation_tokens on only, and outside of generate its place is not known; "
                "disable it (`with model.disable_adapter():`), or use an adapter that always works"
            )
        if _kind(config) == "POLY":
            raise ValueError(
                f"the adapter {name!r} is of the kind POLY, which needs task_ids for every row, "
                "and outside of generate there are none; disable it, or use another adapter"
            )


def _kind(config: Any) -> str:
    """The kind of an adapter, as PEFT writes it: "LORA", ..."""
    kind = config.peft_type
    return getattr(kind, "value", kind)
