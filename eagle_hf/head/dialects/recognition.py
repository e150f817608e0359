"""Which dialect a head is written in, and what a folder is that holds no such head."""

from collections.abc import Iterable
from typing import Any

from eagle_hf.head.dialects.values import get_table, shorten
from eagle_hf.head.layouts import ARCHITECTURE

DIALECTS = ("eagle_hf", "authors", "specforge", "torchspec", "speculators", "modelopt", "automodel")

MODELOPT_KEYS = {
    "use_input_layernorm_in_first_layer",
    "use_last_layernorm",
    "use_mtp_layernorm",
    "next_layer_regular",
    "parallel_draft_step",
    "parallel_draft_heads_num_layers",
}
# the norms of EAGLE-3 in ModelOpt's words
EAGLE3_NORMS = {
    "use_input_layernorm_in_first_layer": True,
    "use_last_layernorm": True,
    "use_mtp_layernorm": False,
}
# tensors that quantised weights come with
SCALES = (
    ".weight_scale",
    ".weight_scale_2",
    ".input_scale",
    ".qweight",
    ".weight_packed",
    ".weight_zero_point",
    ".scales",
)


def recognise(config: dict[str, Any], names: Iterable[str]) -> str:
    """Return the dialect of a head.

    Args:
        config: Its config.json.
        names: The names of its tensors. Empty: recognise it by the config alone.

    Returns:
        One of `DIALECTS`.

    Raises:
        ValueError: This is no EAGLE-3 head of one Llama layer. The message says what it is.
    """
    names = set(names)
    other = _describe_other(config, names)
    if other is not None:
        raise ValueError(f"this is no EAGLE-3 head that can be opened here but looks like {other}")
    nested = get_table(config, "eagle_config")
    architectures = _architectures(config)

    # 1) keys and names that only one dialect has
    if "eagle_hf" in config:
        return "eagle_hf"
    if "speculators_model_type" in config or "transformer_layer_config" in config:
        return "speculators"
    if "_torchspec_version" in config:
        return "torchspec"
    if "LlamaEagle3DraftModel" in architectures or _any_starts(names, "model."):
        return "automodel"
    if MODELOPT_KEYS & set(nested):
        return "modelopt"

    # 2) what several have, by the rest
    if _any_starts(names, "layers.0."):
        return "modelopt" if nested else "torchspec"
    if nested or ARCHITECTURE in architectures:
        return "specforge"
    return "authors"


def _describe_other(config: dict[str, Any], names: set[str]) -> str | None:
    """What this is, if it is no head that can be opened here."""
    nested = get_table(config, "eagle_config")
    kind = config.get("speculators_model_type", "eagle3")
    if "peft_type" in config or _any_contains(names, ".lora_A.", ".lora_B."):
        return (
            "a PEFT adapter; merge it into its head: "
            "eagle-hf merge --head HEAD --adapter ADAPTER --out NEW_FOLDER"
        )
    if kind != "eagle3":
        return f"a speculators model of type {shorten(kind)}"
    if "dflash_config" in config or _any_contains(_architectures(config), "DFlash"):
        return "a DFlash drafter"
    if config.get("parallel_drafting") is True or "mask_hidden" in names:
        return "a P-EAGLE head, which drafts all tokens in one pass"
    drafts_in_parallel = nested.get("parallel_draft_step") not in (None, 0, 1)
    if drafts_in_parallel or _any_contains(names, "parallel_draft_heads."):
        return "a head with Medusa heads beside it"
    if any(name.endswith(SCALES) for name in names):
        return "a quantised head; give the unquantised one"
    if nested.get("use_aux_hidden_state") is False:
        return "an EAGLE-1 or EAGLE-2 head (use_aux_hidden_state is false)"
    for key, expected in EAGLE3_NORMS.items():
        value = nested.get(key)
        if value is not None and value != expected:
            return f"a ModelOpt head with other norms than EAGLE-3's ({key} is {shorten(value)})"
    if not names:
        return None
    return _describe_other_tensors({name.removeprefix("model.") for name in names})


def _describe_other_tensors(names: set[str]) -> str | None:
    """What holds tensors of these names, if it is no head that can be opened here."""
    deeper_layers = []
    for name in names:
        if name.startswith("layers.") and not name.startswith("layers.0."):
            deeper_layers.append(name)
    is_eagle3 = any(name.endswith(".hidden_norm.weight") for name in names)
    if "fc.weight" in names and is_eagle3 and deeper_layers:
        return (
            f"an EAGLE-3 head of several layers (it holds {min(deeper_layers)}); "
            "heads of one layer are supported"
        )
    if _any_contains(names, ".kv_a_proj_with_mqa.", ".q_a_proj."):
        return "an EAGLE-3 head with latent attention (MLA)"
    if _any_contains(names, ".experts."):
        return "a head or model with experts (MoE)"
    if is_eagle3 and _any_contains(names, ".q_norm.", ".k_norm."):
        return "an EAGLE-3 head with normed queries and keys (Qwen3's attention)"
    if is_eagle3 or _any_starts(names, "midlayer."):
        return None
    if "fc.weight" in names:
        return "an EAGLE-1 or EAGLE-2 head (fc without hidden_norm)"
    if _any_starts(names, "layers.") or _any_contains(names, "embed_tokens"):
        return "a whole language model; as a draft model it goes to WindowedDraft"
    return f"something else: none of its tensors is a head's, the first is {min(names)!r:.80}"


def _architectures(config: dict[str, Any]) -> list[str]:
    """The names of the config's model classes."""
    names = config.get("architectures")
    if not isinstance(names, list):
        return []
    return [str(name) for name in names]


def _any_starts(names: Iterable[str], prefix: str) -> bool:
    """Whether one of the names starts like this."""
    return any(name.startswith(prefix) for name in names)


def _any_contains(names: Iterable[str], *parts: str) -> bool:
    """Whether one of the names contains one of the parts."""
    return any(_contains_any(name, parts) for name in names)


def _contains_any(name: str, parts: tuple[str, ...]) -> bool:
    return any(part in name for part in parts)
